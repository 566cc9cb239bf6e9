//! GRUB itself: its script takes the same decision as the library, on every state there is; whatever is damaged, it starts
//! what is good; and nobody can make it start anything else.

use anyhow::{Context, Result, ensure};
use lab::{Firmware, scenario};
use scenarios::built_disk;
use slots::environment::Environment;
use slots::{Slot, State, choose};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use storage::layout;
use tools::Toolbox;

/// Four thousand states, written to an emulated serial port.
const LIMIT: Duration = Duration::from_secs(300);
/// Values of the variables that a state consists of; the last ones are senseless.
const ORDER: [&str; 4] = ["a b", "b a", "", "b"];
const OK: [&str; 3] = ["0", "1", ""];
const TRY: [&str; 6] = ["0", "1", "2", "3", "", "9"];
const STARTABLE: [&str; 2] = ["1", ""];

fn loops(body: &str) -> String {
    let list =
        |values: &[&str]| values.iter().map(|value| format!("\"{value}\"")).collect::<Vec<_>>().join(" ");
    let variables = [
        ("order", list(&ORDER)),
        ("ao", list(&OK)),
        ("bo", list(&OK)),
        ("at", list(&TRY)),
        ("bt", list(&TRY)),
        ("as", list(&STARTABLE)),
        ("bs", list(&STARTABLE)),
    ];
    variables
        .iter()
        .rev()
        .fold(body.to_owned(), |body, (name, list)| format!("for {name} in {list}; do\n{body}\ndone"))
}

/// Path of an ESP's file, and what it holds; `None`: it is removed.
type Change<'a> = (&'a str, Option<&'a [u8]>);

/// The built disk with changes in its ESP.
fn disk(toolbox: &Toolbox, folder: &Path, name: &str, changes: &[Change<'_>]) -> Result<PathBuf> {
    let table = layout::system_disk(20 << 30, 512)?;
    let esp = table.iter().find(|partition| partition.name == "esp").context("no ESP")?;
    let path = folder.join(format!("{name}.raw"));
    let status = Command::new("cp").arg("--sparse=always").arg(built_disk()?).arg(&path).status()?;
    ensure!(status.success(), "cannot copy the disk");
    let at = format!("{}@@{}", path.display(), esp.offset_bytes(512));
    for (file, content) in changes {
        let place = format!("::EFI/debian/{file}");
        let mut command = match content {
            None => {
                let mut remove = toolbox.command("mdel");
                remove.arg("-i").arg(&at).arg(&place);
                remove
            }
            Some(content) => {
                let source = folder.join("content");
                std::fs::write(&source, content)?;
                let mut copy = toolbox.command("mcopy");
                copy.arg("-o").arg("-i").arg(&at).arg(&source).arg(&place);
                copy
            }
        };
        let status = command.env("MTOOLS_SKIP_CHECK", "1").status()?;
        ensure!(status.success(), "cannot change {file} in the ESP");
    }
    Ok(path)
}

/// A grub.cfg that asks the function for every state.
fn questions() -> String {
    let body = "set ORDER=\"$order\"\nset A_OK=\"$ao\"\nset B_OK=\"$bo\"\nset A_TRY=\"$at\"\nset B_TRY=\"$bt\"\n\
                set a_startable=\"$as\"\nset b_startable=\"$bs\"\nchoose_slot\n\
                echo \"=$order,$ao,$bo,$at,$bt,$as,$bs>$slot,$last,$proven,$count,$A_TRY,$B_TRY=\"";
    format!(
        "serial --unit=0 --speed=115200\nterminal_output serial\nsource \"($root)/EFI/debian/slots.cfg\"\n{}\n\
         echo the-end\nhalt\n",
        loops(body)
    )
}

/// What the script has to print after `>` for the state before it.
fn expected(state: &str) -> Result<String> {
    let values: [&str; 7] = state
        .split(',')
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| anyhow::anyhow!("seven values: {state}"))?;
    let [order, a_ok, b_ok, a_try, b_try, a_startable, b_startable] = values;
    let mut environment = Environment::default();
    for (name, value) in
        [("ORDER", order), ("A_OK", a_ok), ("B_OK", b_ok), ("A_TRY", a_try), ("B_TRY", b_try)]
    {
        environment.set(name, value);
    }
    let state = State::of(&environment);
    let startable = |slot| (if slot == Slot::A { a_startable } else { b_startable }) == "1";
    let Some((choice, counted)) = choose(&state, startable) else {
        return Ok(format!(",1,1,,{a_try},{b_try}"));
    };
    let flag = |set: bool| if set { "1" } else { "" };
    let count =
        if choice.last { String::new() } else { format!("{}_TRY", choice.slot.name().to_uppercase()) };
    // The script leaves alone what it does not count.
    let tries = |slot: Slot, text: &str| {
        if !choice.last && choice.slot == slot {
            counted.record(slot).tries.to_string()
        } else {
            text.to_owned()
        }
    };
    Ok(format!(
        "{},{},{},{count},{},{}",
        choice.slot,
        flag(choice.last),
        flag(state.record(choice.slot).good),
        tries(Slot::A, a_try),
        tries(Slot::B, b_try)
    ))
}

#[test]
fn the_script_decides_as_the_library_does() -> anyhow::Result<()> {
    scenario("grub-decision", |lab| {
        let script = questions();
        let disk = disk(lab.toolbox(), lab.folder(), "disk", &[("grub.cfg", Some(script.as_bytes()))])?;
        let machine = lab.machine("grub").disk(&disk).firmware(Firmware::SeaBios).memory_mib(256).start()?;
        let said = machine.wait_for_serial("the-end", LIMIT)?;
        let mut states = std::collections::BTreeSet::new();
        for line in said.lines() {
            let line = line.trim().trim_start_matches('=').trim_end_matches('=');
            let Some((state, decision)) = line.split_once('>') else { continue };
            ensure!(decision == expected(state)?, "GRUB: {line}; library: {}", expected(state)?);
            states.insert(state.to_owned());
        }
        let all = ORDER.len() * (OK.len() * TRY.len() * STARTABLE.len()).pow(2);
        ensure!(states.len() == all, "GRUB decided {} states of {all}", states.len());
        Ok(())
    })
}

#[test]
fn whatever_is_damaged_grub_starts_what_is_good_and_stays_locked() -> anyhow::Result<()> {
    scenario("grub-damage", |lab| {
        let mut b_first = Environment::default();
        let mut state = State::of(&b_first);
        state.finish_write(Slot::B);
        state.store(&mut b_first);
        let b_first = b_first.render()?;
        let garbage = [0xff; 1024];
        let table: [(&str, &[Change<'_>]); 5] = [
            ("emptied", &[("grubenv", Some(&[])), ("grubenv2", Some(&[]))]),
            ("garbage", &[("grubenv", Some(&garbage)), ("grubenv2", Some(&garbage))]),
            ("missing", &[("grubenv", None), ("grubenv2", None)]),
            ("short", &[("grubenv", Some(b"# GRUB Environment Block\nORDER=b a\n")), ("grubenv2", None)]),
            // It names slot B, whose boot partition is blank.
            ("b-first", &[("grubenv", Some(&b_first)), ("grubenv2", Some(&b_first))]),
        ];
        for (name, changes) in table {
            let disk = disk(lab.toolbox(), lab.folder(), name, changes)?;
            let machine = lab.machine(name).disk(&disk).firmware(Firmware::SeaBios).start()?;
            machine.wait_for_serial("infimonitor.slot=a ", LIMIT).with_context(|| name.to_owned())?;
            machine.kill()?;
            std::fs::remove_file(disk)?;
        }

        let machine = lab.machine("locked").disk(&built_disk()?).firmware(Firmware::SeaBios).start()?;
        machine.wait_for_serial("will be executed automatically", LIMIT)?;
        machine.type_on_serial("c")?;
        machine.wait_for_serial("Enter username:", LIMIT)?;
        machine.kill()
    })
}

//! GRUB's script and the library take the same decision: the script's function runs in GRUB, on every state there is.

use anyhow::{Context, Result, ensure};
use lab::{Firmware, scenario};
use scenarios::built_disk;
use slots::environment::Environment;
use slots::{Slot, State, choose};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
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

/// The first partitions of the built disk, with a grub.cfg that asks the function for every state.
fn disk(toolbox: &Toolbox, folder: &Path) -> Result<PathBuf> {
    let table = layout::system_disk(20 << 30, 512)?;
    let esp = table.iter().find(|partition| partition.name == "esp").context("no ESP")?;
    let end = esp.offset_bytes(512) + esp.size_bytes(512);
    let path = folder.join("disk.raw");
    let mut disk = File::create(&path)?;
    std::io::copy(&mut File::open(built_disk()?)?.take(end), &mut disk)?;
    disk.set_len(20 << 30)?;
    let body = "set ORDER=\"$order\"\nset A_OK=\"$ao\"\nset B_OK=\"$bo\"\nset A_TRY=\"$at\"\nset B_TRY=\"$bt\"\n\
                set a_startable=\"$as\"\nset b_startable=\"$bs\"\nchoose_slot\n\
                echo \"=$order,$ao,$bo,$at,$bt,$as,$bs>$slot,$last,$proven,$count,$A_TRY,$B_TRY=\"";
    let script = folder.join("grub.cfg");
    let mut file = File::create(&script)?;
    writeln!(file, "serial --unit=0 --speed=115200\nterminal_output serial")?;
    writeln!(file, "source \"($root)/EFI/debian/slots.cfg\"\n{}\necho the-end\nhalt", loops(body))?;
    drop(file);
    let mut mcopy = toolbox.command("mcopy");
    mcopy.env("MTOOLS_SKIP_CHECK", "1").arg("-o").arg("-i");
    mcopy
        .arg(format!("{}@@{}", path.display(), esp.offset_bytes(512)))
        .arg(&script)
        .arg("::EFI/debian/grub.cfg");
    ensure!(mcopy.status()?.success(), "cannot put grub.cfg into the ESP");
    Ok(path)
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
        let disk = disk(lab.toolbox(), lab.folder())?;
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

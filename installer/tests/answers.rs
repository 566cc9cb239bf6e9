//! From an answer document and a machine to the plan that is carried out, or to the exact words of the refusal.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

use std::collections::BTreeMap;

use installer::machine::{Machine, lines};
use provisioning::Answers;
use storage::inventory::parse;
use storage::plan::Firmware;

/// A machine with the disks of one of the library's fixtures.
fn machine(fixture: &str) -> Machine {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../appliance/storage/tests/fixtures");
    let text = std::fs::read_to_string(format!("{folder}/{fixture}.json")).unwrap();
    Machine {
        firmware: Firmware::Uefi,
        cores: 4,
        memory_bytes: 8_000_000_000,
        disks: parse(&text, &BTreeMap::new()).unwrap(),
    }
}

/// What is said before anything is written; or why nothing is.
fn outcome(install: &str, fixture: &str) -> String {
    let answers = match Answers::from_yaml(&format!("role: backup-server\ninstall:{install}")) {
        Ok(answers) => answers,
        Err(error) => return error.to_string(),
    };
    match machine(fixture).plan(&answers.install.unwrap().wish()) {
        Ok((plan, verdict)) => lines(&plan).into_iter().chain([verdict]).collect::<Vec<_>>().join("\n"),
        Err(error) => format!("{error:#}"),
    }
}

/// What is said of each disk that is taken.
fn starts(device: &str) -> String {
    format!(
        "{device} gets the boot set, so that the machine starts from it too; partitions on multiples of 1024 KiB"
    )
}

const SUITS: &str =
    "The machine suits a monitor with up to 2000 devices; for 10000 devices it has 4 cores and not 6.";
const LONELY: &str = "One disk: when it fails, the backups on it are lost; two make a mirror.";
const HELD: &str =
    "a partition table (gpt), vfat \"EFI System Partition\" on /dev/sda1, LVM2_member on /dev/sda2";

#[test]
fn right_answers_lead_to_this_plan() {
    let (sda, sdb) = (starts("/dev/sda"), starts("/dev/sdb"));
    let leaves = format!("leaves /dev/sda (1.0 TB, ST1000NM0008, A) alone: it is not empty: it holds {HELD}");
    let erased = format!("/dev/sda (1.0 TB, ST1000NM0008, A) is erased: it holds {HELD}.");
    let (mirror, single) =
        ("data: raid1 over 2 disks, 995 GB for backups", "data: single over one disk, 995 GB for backups");
    let stick =
        "leaves /dev/sdb (31 GB, Ultra Fit, 4C53) alone: it is in use: /dev/sdb is mounted at /run/medium";
    let table: [(&str, &str, &[&str]); 6] = [
        (
            " {}\n",
            "two-equal",
            &[
                "takes /dev/sda (1.0 TB, ST1000NM0008-2F2100, ZFA0AAAA)",
                "takes /dev/sdb (1.0 TB, ST1000NM0008-2F2100, ZFA0BBBB)",
                &sda,
                &sdb,
                mirror,
                SUITS,
            ],
        ),
        (
            " {}\n",
            "with-data",
            &["takes /dev/sdb (1.0 TB, ST1000NM0008, B)", &sdb, single, &leaves, LONELY, SUITS],
        ),
        (
            "\n  disks: [{path: /dev/sda}]\n  require_empty: false\n",
            "with-data",
            &[
                "takes /dev/sda (1.0 TB, ST1000NM0008, A)",
                &sda,
                single,
                "leaves /dev/sdb (1.0 TB, ST1000NM0008, B) alone: it was not named",
                &erased,
                LONELY,
                SUITS,
            ],
        ),
        (
            " {}\n",
            "usb-installer",
            &["takes /dev/sda (1.0 TB, CT1000MX500SSD1, 2008E28E)", &sda, single, stick, LONELY, SUITS],
        ),
        // The medium is not meant by a size.
        (
            "\n  disks: [{min_size: 10 GB}]\n",
            "usb-installer",
            &["takes /dev/sda (1.0 TB, CT1000MX500SSD1, 2008E28E)", &sda, single, stick, LONELY, SUITS],
        ),
        (
            "\n  disks: [{min_size: 900 GB}]\n",
            "mixed",
            &[
                "takes /dev/sda (1.0 TB, ST1000NM0008, H1)",
                "takes /dev/sdb (1.0 TB, ST1000NM0008, H2)",
                &sda,
                &sdb,
                mirror,
                "leaves /dev/nvme0n1 (480 GB, INTEL SSDPE, N1) alone: it was not named",
                SUITS,
            ],
        ),
    ];
    for (install, fixture, expected) in table {
        assert_eq!(outcome(install, fixture), expected.join("\n"), "{install} on {fixture}");
    }
}

#[test]
fn wrong_answers_are_refused_in_these_words() {
    let not_empty = format!(
        "/dev/sda (1.0 TB, ST1000NM0008, A) is not empty, it holds {HELD}: name another, erase it, or say \
         `require_empty: false`, and all of that is lost"
    );
    let table = [
        ("\n  disks: [{path: /dev/sda}]\n", "with-data", not_empty.as_str()),
        (
            "\n  disks: [{serial: ZFA0CCCC}]\n",
            "two-equal",
            "no disk is serial \"ZFA0CCCC\"; there are: /dev/sda (1.0 TB, ST1000NM0008-2F2100, ZFA0AAAA), \
             /dev/sdb (1.0 TB, ST1000NM0008-2F2100, ZFA0BBBB)",
        ),
        (
            "\n  disks: [{path: /dev/sda, min_size: lots}]\n",
            "two-equal",
            "answers: install.disks[0].min_size, line 3: \"lots\" is no size; write it such as `400 GB`",
        ),
        (
            "\n  disks: [{sise: 7}]\n",
            "two-equal",
            "answers: install.disks[0].sise, line 3: unknown field `sise`, expected one of model, serial, path, min_size, \
             max_size",
        ),
        (
            "\n  require_empty: false\n",
            "two-equal",
            "answers: install, line 3: require_empty: false needs disks that name what is erased",
        ),
        (
            " {}\n",
            "in-use",
            "no disk can be used: /dev/sda (1.0 TB, S, 1) is in use: /dev/sda is mounted at /; /dev/sdb (1.0 TB, S, 2) is \
             in use: part of raid1 /dev/md0; /dev/sdc (1.0 TB, S, 3) can only be read; /dev/sdd (8 GB, S, 4) is smaller \
             than 20 GB",
        ),
    ];
    for (install, fixture, expected) in table {
        assert_eq!(outcome(install, fixture), expected, "{install} on {fixture}");
    }
}

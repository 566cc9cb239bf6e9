//! Saying what happens. Ordinary steps go to standard error, which is the journal; what needs a person also goes to
//! the kernel's log, since that is what a screen shows, and to a file for the console's status page.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use crate::places::Places;

/// Says what a step found and does.
pub fn say(step: &str, text: &str) {
    eprintln!("{step}: {text}");
}

/// Says something that a person at the screen must see.
pub fn console(text: &str) {
    kernel_log(Path::new("/dev/kmsg"), text);
    eprintln!("{text}");
}

/// Records why something does not work: in `/run/infimonitor/<name>`, on the screen, in the journal.
pub fn problem(places: &Places, name: &str, text: &str) {
    kernel_log(&places.kmsg, &format!("infimonitor {name}: {text}"));
    eprintln!("{name}: {text}");
    let path = places.runtime(name);
    if let Err(error) = files::write(&path, format!("{text}\n").as_bytes(), 0o644, None) {
        eprintln!("{name}: {error:#}");
    }
}

/// Level 3 (error): shown on the console also when the kernel was told to be quiet. The kernel takes one line each.
fn kernel_log(kmsg: &Path, text: &str) {
    let written = OpenOptions::new().write(true).open(kmsg).and_then(|mut log| {
        text.lines().try_for_each(|line| log.write_all(format!("<3>{line}\n").as_bytes()))
    });
    if let Err(error) = written {
        eprintln!("cannot write to {}: {error}", kmsg.display());
    }
}

//! `firstboot medium|initrd|system|grow`: see the library's documentation for what each does.
//!
//! Exit status 0 also when something is wrong with state or data: the console must come up and say so (design D4).

use std::process::ExitCode;

use firstboot::{Places, grow, initrd, medium, system};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["medium"] => medium::run(&Places::initrd()),
        ["initrd"] => initrd::run(&Places::initrd()),
        ["system"] => system::run(&Places::system()),
        ["grow"] => grow::run(&Places::system()),
        _ => {
            eprintln!(
                "usage: firstboot medium|initrd|system|grow\n  medium: finds the installation medium that was booted\n  initrd: mounts state, gives the machine its id and role\n  system: TLS certificate, password, data file system\n  grow: uses all of a disk that has grown"
            );
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            firstboot::report::console(&format!("firstboot {}: {error:#}", arguments.join(" ")));
            ExitCode::FAILURE
        }
    }
}

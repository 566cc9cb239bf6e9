//! The tools tree's programs run where builds and tests need them. The tree itself is made by `cargo xtask build`.

// Helpers of tests may fail as tests do; the lint knows only test functions themselves.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

use tools::Toolbox;

fn output_of(mut command: Command) -> Output {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    output
}

fn text_of(program: &str, arguments: &[&str]) -> String {
    let mut command = Toolbox::open().unwrap().command(program);
    command.args(arguments);
    String::from_utf8(output_of(command).stdout).unwrap()
}

#[test]
fn programs_come_from_the_appliances_release() {
    let expectations = [
        ("qemu-system-x86_64", "--version", "version 10."),
        ("/usr/lib/postgresql/17/bin/postgres", "--version", "(PostgreSQL) 17."),
        ("psql", "--version", "(PostgreSQL) 17."),
        ("pg_amcheck", "--version", "(PostgreSQL) 17."),
        ("mkfs.btrfs", "--version", "btrfs-progs v6.14"),
        ("mkfs.erofs", "--version", "1.8"),
        ("nft", "--version", "nftables v1.1"),
        ("curl", "--version", "curl 8."),
    ];
    for (program, argument, expected) in expectations {
        let text = text_of(program, &[argument]);
        assert!(text.contains(expected), "{program} {argument}: {text}");
    }
}

#[test]
fn the_childs_process_id_is_the_programs_own() {
    let mut child = Toolbox::open().unwrap().command("sleep").arg("60").spawn().unwrap();
    let name = std::path::PathBuf::from(format!("/proc/{}/comm", child.id()));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while std::fs::read_to_string(&name).unwrap().trim() != "sleep" {
        assert!(std::time::Instant::now() < deadline, "the helper did not become the program");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn host_files_and_the_working_folder_are_seen_from_inside() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("here"), "from the host").unwrap();
    let mut command = Toolbox::open().unwrap().command("cat");
    command.arg("here").current_dir(folder.path());
    assert_eq!(output_of(command).stdout, b"from the host");
}

#[test]
fn an_unprivileged_user_can_run_the_database_server() {
    // As root (the usual case in a container) drop to nobody first: PostgreSQL refuses root.
    let drop = "test \"$(id -u)\" != 0 && exec \"$0\" --version; \
                exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$0\" --version";
    let text = text_of("sh", &["-c", drop, "/usr/lib/postgresql/17/bin/postgres"]);
    assert!(text.contains("(PostgreSQL) 17."), "{text}");
}

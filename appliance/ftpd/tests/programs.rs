//! Programs that people fetch files with, as Debian has them: ncftp, tnftp and aria2, which know no TLS, and wget.
//! curl, lftp and Python's ftplib are in `clients`.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

mod support;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use api::FtpSettings;
use support::{ID, MANIFEST, PASSWORD, Running, set, start, stderr};
use tools::Toolbox;

/// A server that admits clients without TLS, and a folder for what they fetch.
fn clear() -> (Running, PathBuf) {
    let server = start(|config| set(config, FtpSettings { allow_clear: true, ..FtpSettings::default() }));
    let folder = server.path("fetched");
    fs::create_dir(&folder).unwrap();
    (server, folder)
}

/// A program of the tools tree that runs in `folder` and finds no settings of the host's user.
fn program(name: &str, folder: &Path) -> Command {
    let mut command = Toolbox::open().unwrap().command(name);
    command.current_dir(folder).env("HOME", folder).stdin(Stdio::null());
    command
}

fn done(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}\n{text}", stderr(output));
    text
}

#[test]
fn ncftp_lists_and_fetches_by_pattern_and_resumes() {
    let (server, folder) = clear();
    let port = server.address.port().to_string();
    let account = ["-u", "backup", "-p", PASSWORD, "-P", &port];
    let list = ["-1", "ftp://127.0.0.1/*.tar"];
    let listed = done(&program("ncftpls", &folder).args(account).args(list).output().unwrap());
    assert_eq!(listed.trim(), format!("{ID}.tar"));
    let tar = folder.join(format!("{ID}.tar"));
    fs::write(&tar, &server.tar()[..1_000_000]).unwrap();
    let get = ["-z", "127.0.0.1", ".", "*.tar", "*.json"];
    done(&program("ncftpget", &folder).args(account).args(get).output().unwrap());
    assert!(fs::read(&tar).unwrap() == server.tar(), "{} bytes", fs::metadata(&tar).unwrap().len());
    assert_eq!(fs::read_to_string(folder.join(format!("{ID}.json"))).unwrap(), MANIFEST);
}

#[test]
fn tnftp_lists_and_fetches_by_pattern_and_never_a_tar_as_text() {
    let (server, folder) = clear();
    let commands = format!(
        "user backup \"{PASSWORD}\"\nprompt\nls -la\nls *.x\nls *.tar\nmget *.json\nget {ID}.tar\nsize {ID}.tar\n\
         mlst {ID}.tar\nfeatures\ncd ~\npwd\nascii\nget {ID}.tar text.tar\nbinary\nget {ID}.tar binary.tar\nbye\n"
    );
    let mut command = program("tnftp", &folder);
    command.args(["-n", "-v", "127.0.0.1"]).arg(server.address.port().to_string());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    let said = done(&child.wait_with_output().unwrap());
    for expected in ["550 No files found", "504 A tar is sent in binary only", "type=file;", "221 Bye"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert_eq!(fs::read_to_string(folder.join(format!("{ID}.json"))).unwrap(), MANIFEST);
    for name in [&format!("{ID}.tar"), "binary.tar"] {
        assert!(fs::read(folder.join(name)).unwrap() == server.tar(), "{name}: {said}");
    }
    assert_eq!(fs::metadata(folder.join("text.tar")).map_or(0, |file| file.len()), 0, "{said}");
}

#[test]
fn aria2_fetches_with_several_connections() {
    let (server, folder) = clear();
    let (user, password) = ("--ftp-user=backup", format!("--ftp-passwd={PASSWORD}"));
    let mut command = program("aria2c", &folder);
    command.args([
        "--no-conf",
        "--split=4",
        "--min-split-size=1M",
        "--max-connection-per-server=4",
        user,
        &password,
    ]);
    done(&command.args(["--out=fetched.tar", &server.url(&format!("{ID}.tar"))]).output().unwrap());
    assert!(fs::read(folder.join("fetched.tar")).unwrap() == server.tar());
}

#[test]
fn wget_fetches_and_resumes_with_tls() {
    let server = start(|_| {});
    let (folder, file) = (server.path(""), server.path("wget.tar"));
    fs::write(&file, &server.tar()[..1_000_000]).unwrap();
    let mut command = program("wget", &folder);
    command.args(["--no-check-certificate", "--tries=2", "--timeout=20", "--continue", "--ftp-user=backup"]);
    command.arg(format!("--ftp-password={PASSWORD}")).arg("--output-document").arg(&file);
    done(&command.arg(server.url(&format!("{ID}.tar")).replace("ftp://", "ftps://")).output().unwrap());
    assert!(fs::read(&file).unwrap() == server.tar(), "{} bytes", fs::metadata(&file).unwrap().len());
}

/// Those that are too large for the tools tree, and one from the npm registry.
mod full {
    use super::*;
    use tools::Tree;

    fn of_clients(name: &str, folder: &Path) -> Command {
        let mut command = Toolbox::open_tree(Tree::CLIENTS).unwrap().command(name);
        command.current_dir(folder).env("HOME", folder).stdin(Stdio::null());
        command
    }

    /// One session at a time: rclone mixes the TLS tickets of several.
    #[test]
    fn rclone_lists_and_fetches_with_tls() {
        let server = start(|_| {});
        let folder = server.path("fetched");
        fs::create_dir(&folder).unwrap();
        let hidden = done(&of_clients("rclone", &folder).args(["obscure", PASSWORD]).output().unwrap());
        let rclone = |arguments: &[&str]| {
            let mut command = of_clients("rclone", &folder);
            command.args(["--ftp-host=127.0.0.1", "--ftp-user=backup", "--ftp-explicit-tls"]);
            command.args([
                "--ftp-no-check-certificate",
                "--ftp-concurrency=1",
                "--transfers=1",
                "--checkers=1",
            ]);
            command.arg(format!("--ftp-port={}", server.address.port()));
            command.arg(format!("--ftp-pass={}", hidden.trim()));
            done(&command.args(arguments).output().unwrap())
        };
        let listed = rclone(&["lsf", ":ftp:"]);
        assert!(listed.lines().any(|line| line == format!("{ID}.tar")), "{listed}");
        rclone(&["copy", ":ftp:", "."]);
        assert!(fs::read(folder.join(format!("{ID}.tar"))).unwrap() == server.tar());
        assert_eq!(fs::read_to_string(folder.join(format!("{ID}.json"))).unwrap(), MANIFEST);
    }

    /// It sends OPTS after the login, which once ended its session.
    #[test]
    fn basic_ftp_lists_and_fetches_with_tls() {
        let server = start(|_| {});
        let folder = server.path("fetched");
        fs::create_dir(&folder).unwrap();
        // npm finds its registry in the settings of whoever runs this.
        let home = std::env::var_os("HOME").unwrap_or_default();
        let install = ["install", "--no-audit", "--no-fund", "--ignore-scripts", "basic-ftp@6.2.6"];
        done(&of_clients("npm", &folder).env("HOME", home).args(install).output().unwrap());
        let script = format!(
            "const ftp = require('basic-ftp');\n\
             (async () => {{\n\
               const client = new ftp.Client();\n\
               await client.access({{host: '127.0.0.1', port: {}, user: 'backup', password: '{PASSWORD}', secure: true,\n\
                 secureOptions: {{rejectUnauthorized: false}}}});\n\
               console.log((await client.list()).map(file => file.name).join('\\n'));\n\
               await client.downloadTo('all.tar', '{ID}.tar');\n\
               await client.downloadTo('{ID}.json', '{ID}.json');\n\
               await client.downloadTo('rest.tar', '{ID}.tar', 1000000);\n\
               client.close();\n\
             }})().catch(error => {{ console.error(error); process.exit(1); }});\n",
            server.address.port()
        );
        fs::write(folder.join("fetch.js"), script).unwrap();
        fs::write(folder.join("rest.tar"), &server.tar()[..1_000_000]).unwrap();
        let listed = done(&of_clients("node", &folder).arg("fetch.js").output().unwrap());
        assert!(listed.lines().any(|line| line == format!("{ID}.tar")), "{listed}");
        assert!(fs::read(folder.join("all.tar")).unwrap() == server.tar());
        assert!(fs::read(folder.join("rest.tar")).unwrap() == server.tar());
        assert_eq!(fs::read_to_string(folder.join(format!("{ID}.json"))).unwrap(), MANIFEST);
    }
}

//! A server with backups in it, and clients for it.

#![allow(dead_code)] // each test program uses a part of it

use std::fs::{self, File};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ftpd::{Config, Limits, Server};
use tempfile::TempDir;

pub const MONITOR: &str = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";
pub const ID: &str = "20261123T205430Z";
pub const PASSWORD: &str = "correct horse";
pub const MANIFEST: &str = "{\"id\": \"20261123T205430Z\"}\n";

/// Size of the one large file in the backup: several chunks, and not a multiple of anything.
const LARGE_BYTES: usize = 3_000_001;

/// A running server. It runs until the test process ends; nothing of it is shared between tests.
pub struct Running {
    folder: TempDir,
    pub address: SocketAddr,
}

/// Starts a server with one backup on a loopback address.
pub fn start(adjust: impl FnOnce(&mut Config)) -> Running {
    start_on("127.0.0.1:0", adjust)
}

pub fn start_on(listen: &str, adjust: impl FnOnce(&mut Config)) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let backups = folder.path().join("backups");
    let snapshot = backups.join(MONITOR).join(ID);
    fs::create_dir_all(snapshot.join("pgdata/base")).unwrap();
    fs::write(snapshot.join("pgdata/PG_VERSION"), "17\n").unwrap();
    fs::write(snapshot.join("pgdata/base/large"), noise(LARGE_BYTES)).unwrap();
    complete(&backups, ID);

    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let parameters = rcgen::CertificateParams::new(vec!["backup-server".to_string()]).unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    fs::write(folder.path().join("certificate.pem"), certificate.pem()).unwrap();
    fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
    let password_file = folder.path().join("password");
    let hash = auth::hash_password(PASSWORD).unwrap();
    auth::write_password_file(&password_file, &hash, None).unwrap();

    let mut config = Config {
        backups,
        certificate: folder.path().join("certificate.pem"),
        key: folder.path().join("key.pem"),
        password_file,
        listen: vec![listen.parse().unwrap()],
        passive_ports: RangeInclusive::new(0, 0),
        settings: folder.path().join("ftp.json"),
        limits: Limits::default(),
    };
    adjust(&mut config);
    let server = Server::bind(config).unwrap();
    let address = server.addresses().unwrap()[0];
    std::thread::spawn(move || server.run());
    Running { folder, address }
}

/// Sets what the console sets.
pub fn set(config: &Config, settings: api::FtpSettings) {
    fs::write(&config.settings, serde_json::to_vec(&settings).unwrap()).unwrap();
}

/// Puts manifest and tar index beside a snapshot.
pub fn complete(backups: &Path, id: &str) {
    let monitor = backups.join(MONITOR);
    fs::write(monitor.join(format!("{id}.json")), MANIFEST).unwrap();
    let index = File::create(monitor.join(format!("{id}.index"))).unwrap();
    vtar::Index::build(&monitor.join(id)).unwrap().write_to(index).unwrap();
}

/// Bytes that do not repeat.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..size).map(|_| next()).collect()
}

impl Running {
    pub fn backups(&self) -> PathBuf {
        self.folder.path().join("backups")
    }

    pub fn snapshot(&self) -> PathBuf {
        self.backups().join(MONITOR).join(ID)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The tar that clients must get.
    pub fn tar(&self) -> Vec<u8> {
        let index = std::sync::Arc::new(vtar::Index::build(&self.snapshot()).unwrap());
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut index.reader(self.snapshot()).unwrap(), &mut bytes).unwrap();
        bytes
    }

    pub fn url(&self, name: &str) -> String {
        format!("ftp://{}/{name}", self.address)
    }

    /// curl with the right password and nothing about TLS.
    pub fn plain_curl(&self, arguments: &[&str]) -> Output {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--verbose", "--max-time", "30", "--noproxy", "*"]);
        if !arguments.contains(&"--user") {
            curl.args(["--user", &format!("backup:{PASSWORD}")]);
        }
        curl.args(arguments).output().unwrap()
    }

    /// curl with TLS for both channels.
    pub fn curl(&self, arguments: &[&str]) -> Output {
        self.plain_curl(&[&["--ssl-reqd", "--insecure"], arguments].concat())
    }

    /// Runs a Python script with `ftplib`; its functions `login`, `server` and constants are in `client.py`.
    pub fn python(&self, script: &str) -> String {
        let arguments = self.python_arguments(&self.address.ip().to_string(), script);
        let output = Command::new("python3").args(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}\n{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What such a script is started with, for a client that reaches the server at `host`.
    pub fn python_arguments(&self, host: &str, script: &str) -> Vec<String> {
        let client = include_str!("client.py");
        let port = self.address.port().to_string();
        ["-c", &format!("{client}\n{script}"), host, &port, PASSWORD, ID].map(String::from).into()
    }
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

//! Where answers come from. The nearest to this one machine goes first: what its hypervisor or its management board says, a
//! URL on the kernel's command line, a volume that somebody attached, a file on the medium.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use provisioning::answers::FILE;
use provisioning::{Answers, smbios};
use rustix::mount::UnmountFlags;
use sha2::{Digest, Sha256};
use ureq::tls::{TlsConfig, TlsProvider};

/// Label of a volume with answers.
pub const LABEL: &str = "ANSWERS";
/// Where it is mounted for a moment.
const MOUNT_POINT: &str = "/run/infimonitor/answers";
/// More than any answers have, in bytes.
const FILE_BYTES: u64 = 1 << 20;

/// On the kernel's command line: where answers are, and the SHA-256 of the file.
const URL: &str = "infimonitor.answers";
const SHA256: &str = "infimonitor.answers-sha256";
/// How long a network and a server are waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries.
const AGAIN: Duration = Duration::from_secs(2);

/// Answers, and where they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What they say.
    pub answers: Answers,
    /// For people.
    pub source: String,
}

/// The answers for this machine; `None`: nobody gave any.
///
/// # Errors
/// They are there and cannot be read or understood. Then nothing is installed: what was meant is not known.
pub fn find(medium: &Path) -> Result<Option<Found>> {
    let of = |source: &str| {
        let source = source.to_owned();
        move |answers| Found { answers, source }
    };
    if let Some(answers) = from_smbios(&Path::new("/").join(smbios::TABLE))? {
        return Ok(Some(of("SMBIOS")(answers)));
    }
    let command_line = fs::read_to_string("/proc/cmdline").context("cannot read /proc/cmdline")?;
    if let Some(remote) = Remote::named(&command_line)? {
        let answers = remote.fetch().with_context(|| remote.url.clone())?;
        return Ok(Some(of(&remote.url)(answers)));
    }
    let volume = Path::new("/dev/disk/by-label").join(LABEL);
    if volume.exists() {
        let source = format!("the volume {LABEL}");
        let answers = from_volume(&volume).with_context(|| source.clone())?;
        // Whoever attached it meant something by it.
        let answers = answers.with_context(|| format!("{source} has no file {FILE}"))?;
        return Ok(Some(of(&source)(answers)));
    }
    Ok(from_file(&medium.join(FILE))?.map(of("the medium")))
}

/// Answers at a URL. The digest says that they are the ones that are meant, so no authority has to vouch for the server; TLS
/// keeps what is in them from who listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    url: String,
    sha256: String,
}

impl Remote {
    /// What the kernel's command line names: `infimonitor.answers=https://…` and `infimonitor.answers-sha256=…`.
    ///
    /// # Errors
    /// One without the other; it is not https, or no digest.
    fn named(command_line: &str) -> Result<Option<Self>> {
        let value = |key: &str| storage::command_line::value(command_line, key).map(str::to_owned);
        let (url, sha256) = (value(URL), value(SHA256));
        let (Some(url), Some(sha256)) = (url.clone(), sha256.clone()) else {
            if url.is_none() && sha256.is_none() {
                return Ok(None);
            }
            bail!("{URL}= and {SHA256}= belong together on the kernel's command line, and one is missing");
        };
        Self::new(&url, &sha256).map(Some).with_context(|| format!("{URL}= and {SHA256}="))
    }

    /// At this URL, with this SHA-256.
    ///
    /// # Errors
    /// It is not https, or no digest.
    pub fn new(url: &str, sha256: &str) -> Result<Self> {
        if !url.starts_with("https://") {
            bail!("{url} is no https URL");
        }
        let is_digest = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_digest {
            bail!("{sha256} is no SHA-256 in hexadecimal; `sha256sum` makes one");
        }
        Ok(Self { url: url.to_owned(), sha256: sha256.to_ascii_lowercase() })
    }

    /// Fetches them, as soon as there is a network.
    ///
    /// # Errors
    /// There is none, or no such file; it is another file; it cannot be understood.
    pub fn fetch(&self) -> Result<Answers> {
        let deadline = Instant::now() + PATIENCE;
        let text = loop {
            match self.text() {
                Ok(text) => break text,
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => thread::sleep(AGAIN),
            }
        };
        self.read(&text)
    }

    fn text(&self) -> Result<String> {
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .disable_verification(true)
            .build();
        let config = ureq::Agent::config_builder();
        let config = config.tls_config(tls).timeout_global(Some(PATIENCE)).proxy(None).build();
        let mut response =
            ureq::Agent::new_with_config(config).get(&self.url).call().context("cannot fetch it")?;
        response.body_mut().with_config().limit(FILE_BYTES).read_to_string().context("cannot read it")
    }

    /// Of the text that was fetched.
    fn read(&self, text: &str) -> Result<Answers> {
        let found = files::hex(&Sha256::digest(text));
        if found != self.sha256 {
            bail!(
                "it has the SHA-256 {found}, and {} is expected: it was changed, or is another file",
                self.sha256
            );
        }
        Ok(Answers::from_yaml(text)?)
    }
}

fn from_smbios(table: &Path) -> Result<Option<Answers>> {
    match fs::read(table) {
        Ok(table) => Ok(smbios::answers_in_table(&table)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", table.display())),
    }
}

fn from_volume(volume: &Path) -> Result<Option<Answers>> {
    let mount_point = Path::new(MOUNT_POINT);
    fs::create_dir_all(mount_point).with_context(|| format!("cannot make {MOUNT_POINT}"))?;
    duct::cmd!("mount", "-o", "ro,nosuid,nodev,noexec", volume, mount_point)
        .stdin_null()
        .run()
        .with_context(|| format!("cannot mount {}", volume.display()))?;
    let answers = from_file(&mount_point.join(FILE));
    rustix::mount::unmount(mount_point, UnmountFlags::empty())
        .with_context(|| format!("cannot unmount {MOUNT_POINT}"))?;
    answers
}

/// The answers in a file; `None`: there is no such file.
///
/// # Errors
/// It cannot be read or understood.
pub fn from_file(path: &Path) -> Result<Option<Answers>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    let mut text = String::new();
    let count = file.take(FILE_BYTES + 1).read_to_string(&mut text);
    let count = count.with_context(|| format!("cannot read {}", path.display()))?;
    if count as u64 > FILE_BYTES {
        bail!("{} is longer than {FILE_BYTES} bytes", path.display());
    }
    Answers::from_yaml(&text).map(Some).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_and_a_wrong_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        assert_eq!(from_file(&path).unwrap(), None);
        fs::write(&path, "role: monitor\ninstall: {}\n").unwrap();
        assert!(from_file(&path).unwrap().unwrap().install.is_some());
        fs::write(&path, "role: mainframe\n").unwrap();
        let error = format!("{:#}", from_file(&path).unwrap_err());
        assert!(
            error.contains("answers.yaml: answers: role, line 1: unknown variant `mainframe`"),
            "{error}"
        );
    }

    #[test]
    fn a_url_is_taken_with_its_digest_and_nothing_else() {
        let digest = "0123456789ABCDEF".repeat(4);
        let both = format!("quiet infimonitor.answers=https://a/b.yaml infimonitor.answers-sha256={digest}");
        let remote = Remote::named(&both).unwrap().unwrap();
        assert_eq!((remote.url.as_str(), remote.sha256), ("https://a/b.yaml", digest.to_ascii_lowercase()));
        assert_eq!(Remote::named("quiet infimonitor.role=monitor").unwrap(), None);
        for (text, expected) in [
            ("infimonitor.answers=https://a".to_owned(), "belong together"),
            (format!("infimonitor.answers-sha256={digest}"), "belong together"),
            (format!("infimonitor.answers=http://a infimonitor.answers-sha256={digest}"), "is no https URL"),
            ("infimonitor.answers=https://a infimonitor.answers-sha256=12".to_owned(), "is no SHA-256"),
        ] {
            let error = format!("{:#}", Remote::named(&text).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
        let text = "role: monitor\n";
        let sha256 = files::hex(&Sha256::digest(text));
        let remote = Remote { url: "https://a".into(), sha256 };
        assert!(remote.read(text).is_ok());
        assert!(remote.read("role: backup-server\n").unwrap_err().to_string().contains("was changed"));
    }
}

//! `monitor-link setup`: lets a backup server in. May be run again, for another server or to mend something: UUID and
//! password stay, so a paired server goes on working.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use api::{Host, Peer, REPLICATION_PORT, Secret, Signature};
use auth::certificate::Key;
use auth::pin::{self, Identity, PublicKey, Statement};
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::address::{own_towards, resolve};
use crate::certificate::{self, Choice};
use crate::cluster::{self, Cluster};
use crate::settings::{self, Current, Facts};
use crate::sql::{self, Psql};
use crate::{hba, redirect, start};

/// What is remembered between runs.
pub const STATE: &str = "/var/lib/monitor-link";
/// The firewall rules, for [`crate::start`].
pub const RULES_FILE: &str = "rules.json";
const PEER_FILE: &str = "peer.json";
const LINK_FILE: &str = "link.json";
/// The private key that signs what this monitor says of itself. No PostgreSQL reads it: a superuser of the database could
/// sign with what PostgreSQL has.
pub const SIGNING_KEY_FILE: &str = "signing.key";

/// How long PostgreSQL may take to take over its files, or to come back.
const PATIENCE: Duration = Duration::from_secs(60);

/// The command's options.
#[derive(Debug, Clone)]
pub struct Options {
    /// The backup server as this machine sees it.
    pub server: Host,
    /// This machine as the backup server sees it; found out if `None`.
    pub address: Option<Host>,
    /// Cluster as `17/main`.
    pub cluster: Option<String>,
    /// Certificate of the authority that signed PostgreSQL's.
    pub ca: Option<PathBuf>,
    /// The signing key that this monitor had when the backup server was paired.
    pub former_key: Option<PathBuf>,
}

/// How the host was before we came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Link {
    /// Whether PostgreSQL's own port was open to the network.
    exposed_before: bool,
}

/// Does it, and returns the body of `PUT /v1/peer`. Notes for people go to standard error.
///
/// # Errors
/// The first step that fails, with what to do; running it again goes on from there.
pub fn run(options: &Options) -> Result<Peer> {
    run_with(options, &|cluster| service("restart", cluster))
}

/// As [`run`]; where PostgreSQL has to be restarted, `restart` does it.
///
/// # Errors
/// As [`run`].
pub fn run_with(options: &Options, restart: &dyn Fn(&Cluster) -> Result<()>) -> Result<Peer> {
    if !rustix::process::geteuid().is_root() {
        bail!("setup changes PostgreSQL's configuration and the firewall: run it as root");
    }
    let servers = resolve(&options.server);
    let own = own_address(options, &servers)?;
    start::wait()?;
    let cluster = cluster::choose(&cluster::list()?, options.cluster.as_deref())?;
    note(&format!("PostgreSQL cluster {}/{}, port {}", cluster.version, cluster.name, cluster.port));
    if !cluster.online {
        service("start", &cluster)?;
    }
    let psql = Psql::of(&cluster.owner, cluster.port);
    wait_until_it_answers(&psql)?;
    // The firewall before PostgreSQL listens on the network.
    let exposed_before = exposed_before(Path::new(STATE), &psql.settings()?)?;
    let rules = redirect::ruleset(&servers, cluster.port, !exposed_before);
    let text = serde_json::to_vec_pretty(&rules).context("cannot write the firewall rules")?;
    files::write(&Path::new(STATE).join(RULES_FILE), &text, 0o600, None)?;
    firewall::apply(Path::new(firewall::NFT), &rules)?;
    let whom = if servers.is_empty() {
        format!(
            "everybody, as the name {} cannot be resolved now; run this again when it can",
            options.server
        )
    } else {
        options.server.to_string()
    };
    note(&format!(
        "port {REPLICATION_PORT} leads to PostgreSQL for {whom}; its own port {} {}",
        cluster.port,
        if exposed_before { "was open to the network and stays so" } else { "stays closed to the network" }
    ));
    let pinned =
        prepare(&psql, &options.server, &servers, own, options.ca.as_deref(), &|| restart(&cluster))?;
    let configuration = configuration(&psql)?;
    let database = psql.open_database()?;
    let peer = credentials(Path::new(STATE), &psql, |id, password, number| {
        let peer = Peer {
            id,
            version: monitor_version(),
            address: options.address.as_ref().map_or_else(|| own.to_string(), ToString::to_string),
            port: REPLICATION_PORT,
            user: hba::ROLE.to_owned(),
            password,
            slot: sql::SLOT.to_owned(),
            database,
            certificate: pinned,
            configuration,
            signing_key: None,
            signature: None,
        };
        signed(peer, Path::new(STATE), number, options.former_key.as_deref())
    })?;
    note(&format!("the key of this monitor is {}", Identity::of(&peer)?.fingerprint()));
    note("ready; the backup server may be paired with what is printed here");
    Ok(peer)
}

/// The peer with the signing key in `state`, which is made where there is none, and signed with it, or with the `former`
/// one.
///
/// # Errors
/// A key cannot be used.
pub fn signed(mut peer: Peer, state: &Path, number: u64, former: Option<&Path>) -> Result<Peer> {
    let key = signing_key(state)?;
    peer.signing_key = Some(PublicKey::of(&key).to_string());
    let signature = match former {
        None => pin::sign(&peer, &key.to_pem(), number)?,
        Some(former) => {
            let text = files::read(former)?;
            let text =
                text.with_context(|| format!("there is no former signing key {}", former.display()))?;
            let identity = Identity::of(&peer)?;
            let signed = Statement::of(&peer, &identity, number).sign(&text);
            signed.with_context(|| format!("{} is not a signing key", former.display()))?
        }
    };
    peer.signature = Some(signature);
    Ok(peer)
}

/// The signing key, made where there is none.
fn signing_key(state: &Path) -> Result<Key> {
    let path = state.join(SIGNING_KEY_FILE);
    if let Some(text) = files::read(&path)? {
        return Key::from_pem(&text).with_context(|| {
            format!(
                "{} is damaged, and the backup server knows this monitor by it. Restore it; or remove it, run setup again and \
                 accept the new key at the backup server's console",
                path.display()
            )
        });
    }
    let key = Key::generate().context("cannot make a signing key")?;
    files::write(&path, key.to_pem().as_bytes(), 0o600, None)?;
    Ok(key)
}

/// Settings, certificate and access rules of a running server. `restart` is called only if it has to be.
///
/// Returns the certificate to pin, as PEM.
///
/// # Errors
/// The first step that fails.
pub fn prepare(
    psql: &Psql,
    server: &Host,
    servers: &[IpAddr],
    own: IpAddr,
    authority: Option<&Path>,
    restart: &dyn Fn() -> Result<()>,
) -> Result<String> {
    let config_file = PathBuf::from(psql.value("show config_file")?);
    let hba_file = PathBuf::from(psql.value("show hba_file")?);
    let data = PathBuf::from(psql.value("show data_directory")?);
    let folder = config_file.parent().context("PostgreSQL's configuration file has no folder")?;
    let metadata = std::fs::metadata(&data).with_context(|| format!("cannot read {}", data.display()))?;
    let owner = Some((metadata.uid(), metadata.gid()));

    let current = psql.settings()?;
    let setting = |name: &str| current.get(name).map_or("", |setting| setting.value.as_str());
    let ours = current.get("ssl_cert_file").is_some_and(|setting| setting.ours);
    let choice = certificate::choose(setting("ssl") == "on", setting("ssl_cert_file"), ours);
    let (certificate, pinned_file) = match choice {
        Choice::Ours => {
            let (certificate, key) = certificate::ensure_ours(folder, (metadata.uid(), metadata.gid()))?;
            (Some((text(&certificate)?, text(&key)?)), certificate)
        }
        // A relative path is relative to the data directory.
        Choice::Hosts => (None, data.join(setting("ssl_cert_file"))),
    };
    let pinned = certificate::to_pin(&pinned_file, authority.filter(|_| choice == Choice::Hosts))?;
    let validity = auth::usable::usable(&pinned).with_context(|| pinned_file.display().to_string())?;
    if let Some(warning) = certificate::warning(&validity, SystemTime::now()) {
        note(&format!("{}: {warning}", pinned_file.display()));
    }

    let facts = Facts { own, room_bytes: room(psql, &data)?, certificate };
    let wanted = settings::wanted(&current, &facts);
    for (name, value) in &wanted {
        note(&format!("{name} = {value}"));
    }
    let conf_d = folder.join("conf.d");
    if !conf_d.is_dir() {
        files::folder(&conf_d, 0o755, (metadata.uid(), metadata.gid()))?;
    }
    files::write(&conf_d.join(settings::FILE), settings::render(&wanted).as_bytes(), 0o644, owner)?;
    include(&config_file, settings::with_include)?;
    let rules = hba::render(server, servers, &psql.open_database()?);
    let hba_folder = hba_file.parent().context("pg_hba.conf has no folder")?;
    files::write(&hba_folder.join(hba::FILE), rules.as_bytes(), 0o640, owner)?;
    include(&hba_file, hba::with_include)?;
    take_over(psql, &wanted, restart)?;
    Ok(pinned)
}

/// Makes the server use its files, by a restart where a reload is not enough.
fn take_over(
    psql: &Psql,
    wanted: &BTreeMap<&'static str, String>,
    restart: &dyn Fn() -> Result<()>,
) -> Result<()> {
    accepted(
        psql,
        "select sourcefile || ', line ' || sourceline || ': ' || error from pg_file_settings
         where error is not null and error <> 'setting could not be applied'",
    )?;
    let loaded = "select extract(epoch from pg_conf_load_time())";
    let before = psql.value(loaded)?;
    psql.run("select pg_reload_conf()")?;
    let deadline = Instant::now() + PATIENCE;
    while psql.value(loaded)? == before {
        if Instant::now() >= deadline {
            bail!("PostgreSQL did not read its configuration again; see its log");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    // Not before: while TLS is off, every hostssl line counts as an error.
    accepted(
        psql,
        "select file_name || ', line ' || line_number || ': ' || error from pg_hba_file_rules
         where error is not null",
    )?;
    if psql.value("select count(*) from pg_settings where pending_restart")? != "0" {
        note("restarting PostgreSQL, as it takes these settings over at a start only");
        restart()?;
        wait_until_it_answers(psql)?;
    }
    let differences = settings::differences(wanted, &psql.settings()?);
    if !differences.is_empty() {
        bail!("{}", differences.join("; "));
    }
    Ok(())
}

/// Fails with the first error that a query over PostgreSQL's configuration files gives.
fn accepted(psql: &Psql, query: &str) -> Result<()> {
    match psql.run(query)?.into_iter().flatten().next() {
        Some(error) => bail!("PostgreSQL does not accept its configuration: {error}"),
        None => Ok(()),
    }
}

/// What stays of a peer between two runs; the rest of the file is for people.
#[derive(Deserialize)]
struct Stays {
    id: Uuid,
    password: Secret,
    #[serde(default)]
    signature: Option<Signature>,
}

/// The number of the next statement: the time in milliseconds, and more than the last one's if the clock was set back.
fn next_number(last: Option<&Signature>, now: SystemTime) -> u64 {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let least = last.map_or(1, |signature| signature.number.saturating_add(1));
    u64::try_from(now).unwrap_or(u64::MAX).max(least)
}

fn stored(path: &Path) -> Result<Option<Stays>> {
    let Some(text) = files::read(path)? else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .with_context(|| format!("{} is damaged; remove it and pair anew", path.display()))
}

/// Takes over the UUID of the monitor whose database was restored here: pairing goes by it, so the backup server knows it
/// again. The password is a new one; the next [`run`] gives it to the role.
///
/// # Errors
/// The stored peer is damaged or cannot be written.
pub fn adopt(state: &Path, id: Uuid) -> Result<()> {
    let path = state.join(PEER_FILE);
    if stored(&path)?.is_some_and(|stays| stays.id == id) {
        return Ok(());
    }
    let stays = serde_json::json!({ "id": id, "password": sql::random_password()? });
    let text = serde_json::to_vec_pretty(&stays).context("cannot write the peer")?;
    files::write(&path, &text, 0o600, None).map(drop)
}

/// Role, slot and the stored peer: UUID and password of an earlier run stay. `peer` gets them and the number of its statement.
///
/// # Errors
/// The stored peer is damaged, PostgreSQL refuses, or what would be printed is not usable.
pub fn credentials(
    state: &Path,
    psql: &Psql,
    peer: impl FnOnce(Uuid, Secret, u64) -> Result<Peer>,
) -> Result<Peer> {
    let path = state.join(PEER_FILE);
    let (id, password, last) = match stored(&path)? {
        Some(Stays { id, password, signature }) => (id, password, signature),
        None => (Uuid::new_v4(), Secret::new(sql::random_password()?), None),
    };
    psql.run(&sql::role_and_slot(password.reveal(), &psql.open_database()?)?)?;
    let mut peer = peer(id, password, next_number(last.as_ref(), SystemTime::now()))?;
    // What was said before is not said anew. By another signing key it is something else.
    let said = files::read(&path)?.and_then(|text| serde_json::from_str::<Peer>(&text).ok());
    if let Some(said) = said.filter(|said| said.signature.is_some())
        && (Peer { signature: None, ..said.clone() }) == (Peer { signature: None, ..peer.clone() })
    {
        peer.signature = said.signature;
    }
    peer.check().context("the backup server would not accept this")?;
    let text = serde_json::to_vec_pretty(&peer).context("cannot write the peer")?;
    files::write(&path, &text, 0o600, None)?;
    Ok(peer)
}

/// PostgreSQL's configuration files by path: every backup carries them, so that a restored monitor is configured as this
/// one. Those in the data directory, such as what ALTER SYSTEM writes, are among them: no WAL carries their changes, so
/// they would stay as they were when the replica was copied. Ours are not: whoever restores runs setup again, which writes
/// them anew, with keys that were never in a backup.
///
/// They are read by PostgreSQL, not by us: its owner may have linked any file to the name of one, and what root reads is
/// nobody's business. What cannot be read, or is too much, is left out and said.
///
/// # Errors
/// PostgreSQL does not say which they are.
pub fn configuration(psql: &Psql) -> Result<BTreeMap<String, String>> {
    let named = "select current_setting('config_file') union select current_setting('hba_file')
                 union select current_setting('ident_file') union select sourcefile from pg_file_settings
                 union select file_name from pg_hba_file_rules union select file_name from pg_ident_file_mappings
                 union select current_setting('data_directory') || '/postgresql.auto.conf'";
    let mut files = BTreeMap::new();
    let ours = |path: &str| [settings::FILE, hba::FILE].iter().any(|name| Path::new(path).ends_with(name));
    for path in psql.run(named)?.into_iter().flatten().filter(|path| !path.is_empty() && !ours(path)) {
        let quoted = path.replace('\'', "''");
        let read = psql.run(&format!("select encode(pg_read_binary_file('{quoted}'), 'base64')"));
        let text = read.and_then(|rows| {
            let text: String = rows.into_iter().flatten().collect();
            Ok(base64::engine::general_purpose::STANDARD.decode(text)?)
        });
        match text {
            Ok(text) if str::from_utf8(&text).is_err() => {
                note(&format!(
                    "{path} is not kept with the backups: it is not UTF-8, and would come back changed"
                ));
            }
            Ok(text) => {
                let text = settings::without_secrets(&String::from_utf8_lossy(&text));
                files.insert(path.clone(), text);
                if api::check_configuration(&files).is_err() {
                    note(&format!("{path} is too large to be kept with the backups"));
                    files.remove(&path);
                }
            }
            Err(error) => note(&format!("{path} is not kept with the backups: {error:#}")),
        }
    }
    Ok(files)
}

/// Our address on the way to the server.
fn own_address(options: &Options, servers: &[IpAddr]) -> Result<IpAddr> {
    if let Some(server) = servers.iter().find_map(|server| own_towards(*server).ok()) {
        return Ok(server);
    }
    match (&options.address, servers.first()) {
        (Some(Host::Address(address)), _) => Ok(*address),
        (_, Some(server)) => own_towards(*server),
        (_, None) => bail!("the name {} cannot be resolved; name addresses instead", options.server),
    }
}

/// Whether PostgreSQL's port was open before the first run, which is remembered: later we see our own setting.
fn exposed_before(state: &Path, current: &BTreeMap<String, Current>) -> Result<bool> {
    let path = state.join(LINK_FILE);
    if let Some(text) = files::read(&path)? {
        let link: Link =
            serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
        return Ok(link.exposed_before);
    }
    let listen = current.get("listen_addresses");
    let exposed_before = listen.is_some_and(|setting| !setting.ours && settings::is_exposed(&setting.value));
    let text = serde_json::to_vec(&Link { exposed_before }).context("cannot write the link's state")?;
    files::write(&path, &text, 0o600, None)?;
    Ok(exposed_before)
}

/// Free space where the WAL lies, plus the WAL itself, in bytes.
fn room(psql: &Psql, data: &Path) -> Result<u64> {
    let wal = data.join("pg_wal");
    let space = rustix::fs::statvfs(&wal)
        .with_context(|| format!("cannot ask for the space of {}", wal.display()))?;
    let used = psql.value("select coalesce(sum(size), 0)::bigint from pg_ls_waldir()")?;
    let used: u64 = used.parse().with_context(|| format!("PostgreSQL says its WAL has {used} bytes"))?;
    Ok((space.f_bavail * space.f_frsize).saturating_add(used))
}

/// Changes a configuration file of the host, keeping its owner and mode.
fn include(path: &Path, change: impl Fn(&str) -> Option<String>) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let Some(changed) = change(&text) else { return Ok(()) };
    let metadata = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    note(&format!("adding our line to {}", path.display()));
    files::write(path, changed.as_bytes(), metadata.mode() & 0o7777, Some((metadata.uid(), metadata.gid())))?;
    Ok(())
}

/// Starts, stops or restarts the cluster: by systemd where it runs, else by postgresql-common.
///
/// # Errors
/// Those of the program that does it.
pub fn service(action: &str, cluster: &Cluster) -> Result<()> {
    let mut command = if Path::new("/run/systemd/system").exists() {
        let mut command = Command::new("systemctl");
        command.args([action, &cluster.unit()]);
        command
    } else {
        let mut command = Command::new("pg_ctlcluster");
        command.args([&cluster.version, &cluster.name, action]);
        command
    };
    cluster::run(&mut command).with_context(|| {
        format!("cannot {action} PostgreSQL; `journalctl -u {}` says why", cluster.unit())
    })?;
    Ok(())
}

fn wait_until_it_answers(psql: &Psql) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match psql.run("select 1") {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(300)),
        }
    }
}

/// The image's version on our node, the system's elsewhere (os-release(5)).
pub fn monitor_version() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    version_of(&text)
}

/// Version in the text of an os-release file.
fn version_of(os_release: &str) -> String {
    let value = |key: &str| {
        os_release
            .lines()
            .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim().trim_matches(['"', '\'']).to_owned())
            .find(|value| !value.is_empty())
    };
    value("IMAGE_VERSION").or_else(|| value("VERSION_ID")).unwrap_or_else(|| "unknown".into())
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).with_context(|| format!("{} is not UTF-8", path.display()))
}

fn note(text: &str) {
    eprintln!("monitor-link: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_images_or_the_systems() {
        let table = [
            ("ID=debian\nVERSION_ID=\"13\"\nIMAGE_VERSION=1.2.3\n", "1.2.3"),
            ("ID=debian\nVERSION_ID=\"13\"\n", "13"),
            ("IMAGE_VERSION=\nVERSION_ID='24.04'\n", "24.04"),
            ("IMAGE_VERSIONS=1\n", "unknown"),
            ("", "unknown"),
        ];
        for (text, expected) in table {
            assert_eq!(version_of(text), expected, "{text}");
        }
    }

    #[test]
    fn each_statement_has_a_greater_number_than_the_last() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let last = |number| Signature { number, value: String::new() };
        for (last, now, expected) in [
            (None, at(2), 2000),
            (None, at(0), 1),
            (Some(last(1999)), at(2), 2000),
            (Some(last(2000)), at(2), 2001),
            (Some(last(9000)), at(2), 9001),
        ] {
            assert_eq!(next_number(last.as_ref(), now), expected, "{last:?}");
        }
    }

    #[test]
    fn the_signing_key_is_made_once_for_root_alone_and_the_former_one_hands_over() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join(SIGNING_KEY_FILE);
        let said = auth::testing::Monitor::new(1).peer;
        let sign = |former| signed(said.clone(), state.path(), 7, former);
        let first = sign(None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(sign(None).unwrap().signing_key, first.signing_key);
        let is_signed = |peer: &Peer, by: &Peer| {
            let identity = Identity::of(peer).unwrap();
            let by = PublicKey::parse(by.signing_key.as_deref().unwrap()).unwrap();
            Statement::of(peer, &identity, 7).is_signed_by(&by, peer.signature.as_ref().unwrap())
        };
        assert!(is_signed(&first, &first));
        let former = state.path().join("former.key");
        std::fs::rename(&path, &former).unwrap();
        let handed = sign(Some(&former)).unwrap();
        assert_ne!(handed.signing_key, first.signing_key);
        assert!(is_signed(&handed, &first) && !is_signed(&handed, &handed));
        for (text, part) in [("rubbish", "is not a signing key"), ("", "is not a signing key")] {
            std::fs::write(&former, text).unwrap();
            assert!(format!("{:#}", sign(Some(&former)).unwrap_err()).contains(part));
        }
        std::fs::remove_file(&former).unwrap();
        assert!(sign(Some(&former)).unwrap_err().to_string().contains("there is no former signing key"));
        // One that is damaged is not replaced unasked.
        std::fs::write(&path, "rubbish").unwrap();
        assert!(sign(None).unwrap_err().to_string().contains("is damaged"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "rubbish");
    }

    #[test]
    fn exposure_is_what_it_was_at_the_first_run() {
        let dir = tempfile::tempdir().unwrap();
        let listen = |value: &str, ours| {
            BTreeMap::from([("listen_addresses".to_owned(), Current { value: value.into(), ours })])
        };
        assert!(!exposed_before(dir.path(), &listen("localhost", false)).unwrap());
        assert!(!exposed_before(dir.path(), &listen("*", true)).unwrap());
        assert!(!exposed_before(dir.path(), &listen("*", false)).unwrap());
        let other = tempfile::tempdir().unwrap();
        assert!(exposed_before(other.path(), &listen("*", false)).unwrap());
        // our own setting without its record: closed is the safe answer
        let third = tempfile::tempdir().unwrap();
        assert!(!exposed_before(third.path(), &listen("*", true)).unwrap());
    }
}

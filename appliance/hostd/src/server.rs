//! Serving requests: who may ask, one connection per request, one server per monitor.

use crate::callers::Callers;
use crate::clock::{self, Clock};
use crate::cluster::{self, Server};
use crate::copy_room::{self, Room};
use crate::decisions::Decisions;
use crate::ledger::{Ledger, Purpose};
use crate::pairing::{Accepted, Asked, Known, Refused};
use crate::places::Places;
use crate::replace::{self, Replace};
use crate::replies::Replies;
use crate::sandbox::{Sandbox, user_ids};
use crate::scope::Scopes;
use crate::{
    access, backup, catalog, copy_check, disks, full_copy, pairing, rotate, stragglers, tablespaces, tidy,
    usage, verify, write_limit,
};
use anyhow::{Context, Result, bail, ensure};
use api::{Deletion, DeletionReason, Peer};
use hostd::{Change, ReplicaInfo, Reply, Request};
use nix::unistd::Uid;
use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;
use uuid::Uuid;

/// This machine. Locks are held while something changes: requests are rare, and two that change the
/// same replica must wait.
struct Host {
    /// Where things are.
    places: Places,
    /// The clock as watched.
    clock: Clock,
    /// What the console has decided.
    decisions: Decisions,
    /// What rotation and the network's wishes have used up.
    ledger: Ledger,
    /// The servers that run, by monitor.
    servers: Mutex<HashMap<Uuid, Server>>,
    /// Held during a full copy, which takes hours, while the servers answer.
    copying: Mutex<()>,
    /// Of what is kept of full copies for their check.
    generation: copy_check::Generation,
    /// Held while backups come, go or change their records.
    catalog: Mutex<()>,
    /// Connections of root.
    of_root: Arc<Callers>,
    /// Connections of the process that sends requests.
    of_observer: Arc<Callers>,
    /// Held while a backup is verified, which takes hours: one at a time.
    verifying: Mutex<()>,
    /// What is done with the disks.
    disks: disks::UnderWay,
    /// Bytes that each backup alone takes, as they were measured last.
    exclusive: usage::Exclusive,
}

/// Pause after a connection could not be accepted.
const ACCEPT_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// Serves until SIGTERM or SIGINT, then stops every cluster.
pub async fn serve(mut places: Places, socket: &Path) -> Result<()> {
    let (observer, observer_group) = user_ids(&places.observer)?;
    // Before anybody asks for one that would meet what an earlier hostd left.
    stragglers::end_all(&places.data)
        .await
        .unwrap_or_else(|error| tracing::error!("a cluster of an earlier hostd still runs: {error:#}"));
    let listener = listen(socket, observer_group.as_raw())?;
    places.scopes = Scopes::take_over(cluster::machine_mib()?);
    let clock = Clock::start(&places.state)?;
    let decisions = Decisions::load(&places.state)?;
    let ledger = Ledger::load(&places.state)?;
    let exclusive = usage::Exclusive::load(&places.state);
    hand_out_ftp(&places, &decisions)?;
    if decisions.access().peer_only {
        // They stay open to everybody then, behind the password: a server that no monitor reaches protects nothing.
        let apply = access::apply(&decisions.access());
        apply.unwrap_or_else(|error| tracing::error!("the ports are open to everybody: {error:#}"));
    }
    let host = Arc::new(Host {
        places,
        clock,
        decisions,
        ledger,
        servers: Mutex::default(),
        copying: Mutex::default(),
        generation: Mutex::default(),
        catalog: Mutex::default(),
        of_root: Arc::default(),
        of_observer: Arc::default(),
        verifying: Mutex::default(),
        disks: disks::UnderWay::default(),
        exclusive,
    });
    let goes_on = Arc::clone(&host);
    tokio::spawn(async move { disks::go_on(&goes_on.places, &goes_on.disks).await });
    let tidies = Arc::clone(&host);
    tokio::spawn(async move {
        tidy::run(&tidies.places, &tidies.copying, &tidies.verifying, &tidies.catalog).await;
    });
    let mut looks_at_clock = tokio::time::interval(clock::INTERVAL);
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    tracing::info!("listening on {}", socket.display());
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // No memory, no descriptors: that passes, and whoever is connected is served meanwhile.
                Err(error) => {
                    tracing::error!("cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            },
            _ = looks_at_clock.tick() => {
                if let Err(error) = host.clock.look() {
                    tracing::error!("{error:#}");
                }
                continue;
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        let host = Arc::clone(&host);
        tokio::spawn(async move {
            if let Err(error) = answer(stream, observer, &host).await {
                tracing::warn!("a request ended early: {error:#}");
            }
        });
    }
    let mut stopped: Result<()> = Ok(());
    for (monitor, server) in host.servers.lock().await.iter_mut() {
        tracing::info!(%monitor, "stopping the replica");
        // The others are stopped all the same.
        stopped = stopped.and(server.postgres.stop().await);
    }
    stopped
}

fn listen(socket: &Path, group: u32) -> Result<UnixListener> {
    if let Some(folder) = socket.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    match fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", socket.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    chown(socket, None, Some(group))
        .with_context(|| format!("cannot give {} to its group", socket.display()))?;
    fs::set_permissions(socket, Permissions::from_mode(0o660))
        .with_context(|| format!("cannot set the mode of {}", socket.display()))?;
    Ok(listener)
}

async fn answer(stream: UnixStream, observer: Uid, host: &Host) -> Result<()> {
    let asking = stream.peer_cred().context("cannot tell who asks")?.uid();
    let (read, write) = stream.into_split();
    let mut replies = Replies::new(write);
    let callers = match asking {
        0 => &host.of_root,
        _ if asking == observer.as_raw() => &host.of_observer,
        _ => bail!("user {asking} may not send requests"),
    };
    let mut caller = callers.arrive();
    let mut read = BufReader::new(read);
    let line = match caller.request(&mut read).await {
        Ok(line) => line,
        Err(error) => {
            // Not worth a line in the journal each: whoever waits for a reply reads it.
            tracing::debug!("a connection of user {asking} was closed: {error:#}");
            return replies.send(&Reply::Failed { error: format!("{error:#}") }).await;
        }
    };
    // Nothing follows a request: what can be read then is the end of the connection.
    let left = pin!(async move {
        drop(read.read_u8().await);
    });
    let reply = match serde_json::from_slice(&line) {
        Ok(request) => match carry_out(request, asking == 0, host, &mut replies, left).await {
            Ok(reply) => reply,
            Err(error) => {
                tracing::warn!("{error:#}");
                error
                    .downcast::<hostd::Refused>()
                    .map_or_else(|error| Reply::Failed { error: format!("{error:#}") }, Reply::Refused)
            }
        },
        Err(error) => Reply::Failed { error: format!("unreadable request: {error}") },
    };
    replies.send(&reply).await
}

/// Time that the order to give up a replica waits for its turn.
const DISCARD_WAIT: std::time::Duration = std::time::Duration::from_secs(60);

async fn carry_out(
    request: Request,
    is_root: bool,
    host: &Host,
    replies: &mut Replies,
    left: Pin<&mut impl Future<Output = ()>>,
) -> Result<Reply> {
    ensure!(is_root || !request.is_for_root(), "only the console may do this");
    let Host { places, clock, decisions, ledger, .. } = host;
    let memory = rotate::Memory { clock, ledger, decisions };
    match request {
        Request::FullCopy { peer, tablespaces, replace } => {
            checked(host, &peer)?;
            access::know(decisions, &peer).await;
            // An earlier copy whose client has left is being cleaned up.
            let _one_copy_at_a_time = host.copying.lock().await;
            // Or the console has released the monitor meanwhile.
            checked(host, &peer)?;
            let left = pin!(async {
                tokio::select! {
                    () = left => "its request was cancelled",
                    () = decisions.until_refused(&peer) => "the console has released the monitor, or another one is paired",
                }
            });
            ensure!(!runs(host, peer.id).await, "the replica runs; it is stopped before a full copy");
            let room = room(host, memory);
            let replace = replace.then(|| Replace { accepted: decisions.accepted(peer.id) });
            full_copy::run(places, &peer, &tablespaces, replace, &room, replies, left).await?;
            if let Err(error) = decisions.done(peer.id) {
                tracing::error!("what was accepted for the copy stays accepted: {error:#}");
            }
            Ok(Reply::Done)
        }
        Request::TryCopy { monitor, announced } => {
            copy_room::would_begin(&room(host, memory), monitor, announced).await?;
            Ok(Reply::Done)
        }
        Request::VerifyCopy { monitor } => {
            let _one_at_a_time = host.verifying.lock().await;
            Ok(Reply::CopyVerified(copy_check::run(places, monitor, &host.generation).await?))
        }
        Request::DiscardReplica { monitor } => {
            // Who starts a replica or tidies up is done soon; a full copy is not.
            let Ok(_no_copy) = tokio::time::timeout(DISCARD_WAIT, host.copying.lock()).await else {
                bail!("a full copy is under way, which takes the replica's place when it is complete");
            };
            let _no_backup = host.catalog.lock().await;
            if let Some(server) = host.servers.lock().await.get_mut(&monitor) {
                server.postgres.stop().await?;
            }
            replace::discard(places, monitor).await?;
            Ok(Reply::Done)
        }
        Request::AcceptDatabase { monitor, system_identifier } => {
            decisions.accept(monitor, system_identifier)?;
            Ok(Reply::Done)
        }
        Request::AcceptedDatabase { monitor } => {
            Ok(Reply::AcceptedDatabase { system_identifier: decisions.accepted(monitor) })
        }
        Request::AdmitPeer { peer, is_new, is_trial } => {
            peer.check().context("the peer is refused")?;
            let asked = if is_new { Asked::Pair } else { Asked::Follow };
            let stored = stored(host)?;
            let admitted = if is_trial {
                decisions.try_peer(&peer, asked, &stored)
            } else {
                decisions.admit(&peer, asked, &stored)
            };
            let refused = match admitted {
                Ok(()) => None,
                Err(error) => match error.downcast::<Refused>() {
                    Ok(refused) => {
                        decisions.remember_refused(&peer);
                        Some(refused.to_string())
                    }
                    Err(error) => return Err(error),
                },
            };
            Ok(Reply::Admitted { refused })
        }
        Request::AcceptPeer { monitor, key } => {
            ensure!(key.parse::<api::Fingerprint>().is_ok(), "{key:?} is not a key's fingerprint");
            decisions.accept_peer(Accepted { monitor, key })?;
            Ok(Reply::Done)
        }
        Request::ConfirmPeer { number } => {
            decisions.confirm_number(number)?;
            Ok(Reply::Done)
        }
        Request::Pairing => Ok(Reply::Pairing(decisions.known().shown(&stored(host)?))),
        Request::RefusedPeers => Ok(Reply::RefusedPeers(decisions.refused())),
        Request::ReleasePeer => {
            let released = decisions.release_peer()?;
            let mut servers = host.servers.lock().await;
            if let Some(server) = released.and_then(|id| servers.get_mut(&id)) {
                server.postgres.stop().await?;
            }
            drop(servers);
            // A copy of it gives up by itself; this waits until it is gone.
            drop(host.copying.lock().await);
            Ok(Reply::Done)
        }
        Request::StartReplica { peer } => {
            // A copy takes the replica's place: none is started meanwhile.
            let _no_copy = host.copying.lock().await;
            checked(host, &peer)?;
            access::know(decisions, &peer).await;
            start_replica(host, &peer).await?;
            Ok(Reply::Done)
        }
        Request::StopReplica { monitor } => {
            if let Some(server) = host.servers.lock().await.get_mut(&monitor) {
                server.postgres.stop().await?;
            }
            Ok(Reply::Done)
        }
        Request::Replica { monitor } => Ok(Reply::Replica(replica_info(host, monitor).await?)),
        Request::Working { monitor } => {
            let servers = host.servers.lock().await;
            let working = servers.get(&monitor).map(Server::working).transpose()?;
            Ok(Reply::Working(working.unwrap_or_default()))
        }
        Request::CreateBackup(mut request) => {
            if !request.configuration.is_empty() && !pairing::vouches(&decisions.known(), &request) {
                tracing::warn!(
                    "the backup is made without configuration files: the paired monitor did not sign them"
                );
                request.configuration.clear();
            }
            let _one_at_a_time = host.catalog.lock().await;
            let purpose = Purpose::of(request.reason, &request.comment);
            let lived = clock.look()?.lived;
            if !is_root {
                ledger.may_make(purpose, &decisions.limits(), lived)?;
            }
            let user =
                host.servers.lock().await.get(&request.monitor.id).map(|server| server.user().to_owned());
            let backup = backup::create(places, ledger, *request, user.as_deref()).await?;
            if !is_root {
                ledger.made(purpose, lived)?;
            }
            Ok(Reply::Backup(Box::new(backup)))
        }
        Request::ChangeBackup { monitor, id, change } => {
            let _one_at_a_time = host.catalog.lock().await;
            if !is_root && change == Change::Pinned(true) {
                rotate::may_pin(places, decisions, monitor, &id)?;
            }
            if !is_root && matches!(change, Change::Comment(_)) {
                let lived = clock.look()?.lived;
                ledger.may_comment(lived)?;
                ledger.commented(lived)?;
            }
            Ok(Reply::Backup(Box::new(catalog::change(places, monitor, &id.parse()?, change)?)))
        }
        Request::DeleteBackup { monitor, id } => {
            let _one_at_a_time = host.catalog.lock().await;
            rotate::delete(places, &Deletion { monitor, id, why: DeletionReason::OnDemand }).await?;
            Ok(Reply::Done)
        }
        Request::VerifyBackup { monitor, id, depth } => {
            let _one_at_a_time = host.verifying.lock().await;
            let id = id.parse()?;
            let found = verify::run(places, monitor, &id, depth).await?;
            let _one_at_a_time = host.catalog.lock().await;
            Ok(Reply::Backup(Box::new(verify::record(places, monitor, &id, found)?)))
        }
        Request::ReadBackup { monitor, id } => {
            let id = id.parse()?;
            let reading = async {
                let _one_at_a_time = host.verifying.lock().await;
                verify::read_again(places, monitor, &id).await
            };
            let found = tokio::select! {
                found = reading => found?,
                () = left => bail!("backup {id} is read later: something else waits"),
            };
            let _one_at_a_time = host.catalog.lock().await;
            Ok(Reply::Backup(Box::new(verify::record(places, monitor, &id, found)?)))
        }
        Request::Rotate { retention_days } => {
            let _one_at_a_time = host.catalog.lock().await;
            let (total, free) = catalog::room(places)?;
            if free.saturating_add(write_limit::clone_bytes(places)?) < decisions.limits().low_space(total) {
                copy_check::drop_all(places, &host.generation).await?;
            }
            let (deleted, stuck) = rotate::run(places, memory, retention_days).await?;
            Ok(Reply::Rotated { deleted, stuck })
        }
        Request::RotationPlan { retention_days } => {
            // Looking holds each backup for a moment, by which a rotation beside it would tell that it is downloaded.
            let _one_at_a_time = host.catalog.lock().await;
            Ok(Reply::RotationPlan(Box::new(rotate::planned(places, memory, retention_days)?)))
        }
        Request::ReplicaBytes { monitor } => {
            let databases = places.replica(monitor).join("pgdata/base");
            let bytes = tokio::task::spawn_blocking(move || files::bytes_below(&databases, None)).await??;
            Ok(Reply::Bytes { bytes })
        }
        Request::Limits => Ok(Reply::Limits { limits: decisions.limits(), problem: decisions.problem() }),
        Request::SetLimits(limits) => {
            decisions.set_limits(limits)?;
            Ok(Reply::Done)
        }
        Request::Ftp => Ok(Reply::Ftp(decisions.ftp())),
        Request::SetFtp(settings) => {
            decisions.set_ftp(settings)?;
            hand_out_ftp(places, decisions)?;
            Ok(Reply::Done)
        }
        Request::Access => Ok(Reply::Access(decisions.access())),
        Request::SetPeerOnly(peer_only) => {
            access::set(decisions, peer_only).await?;
            Ok(Reply::Done)
        }
        Request::Disks => Ok(Reply::Disks(Box::new(disks::look(places, &host.disks).await?))),
        request @ (Request::ReplaceDisk { .. }
        | Request::AddDisk(_)
        | Request::GrowDisks
        | Request::BalanceDisks
        | Request::ClearDiskErrors
        | Request::Scrub) => disks::change(places, &host.disks, request, replies).await,
        Request::MeasureUsage { each } => {
            let usage = usage::measure(places).await?;
            let exclusive = if each { Some(usage::of_each_backup(places).await?) } else { None };
            if let Some(exclusive) = &exclusive {
                host.exclusive.measured(exclusive);
            }
            Ok(Reply::Usage { usage, exclusive })
        }
        Request::ConfirmClock => {
            clock.confirm()?;
            Ok(Reply::Done)
        }
        Request::Retention => {
            let _one_at_a_time = host.catalog.lock().await;
            Ok(Reply::Retention(rotate::retention(places, memory)?))
        }
        Request::DecideRetention { confirm } => {
            decisions.decide_retention(confirm)?;
            Ok(Reply::Done)
        }
        Request::AllowRotation => {
            ledger.allow_more()?;
            Ok(Reply::Done)
        }
    }
}

/// Where a full copy finds room.
fn room<'a>(host: &'a Host, memory: rotate::Memory<'a>) -> Room<'a> {
    let Host { places, catalog, generation, exclusive, .. } = host;
    Room { places, memory, catalog, generation, exclusive }
}

/// Writes what was decided of FTP for those who need it: they cannot read the decisions.
fn hand_out_ftp(places: &Places, decisions: &Decisions) -> Result<()> {
    let text = serde_json::to_vec_pretty(&decisions.ftp())?;
    files::write(&places.ftp_settings(), &text, 0o644, None).map(drop)
}

async fn start_replica(host: &Host, peer: &Peer) -> Result<()> {
    let mut servers = host.servers.lock().await;
    if let Some(server) = servers.get_mut(&peer.id)
        && server.postgres.runs()
    {
        if server.follows(peer) {
            return Ok(());
        }
        server.postgres.stop().await?;
    }
    servers.insert(peer.id, Server::start(&host.places, peer).await?);
    Ok(())
}

async fn replica_info(host: &Host, monitor: Uuid) -> Result<ReplicaInfo> {
    let places = &host.places;
    let replica = places.replica(monitor);
    let present = places.has_replica(monitor)?;
    let unverified = places.unverified(monitor).exists();
    let control = if present { Some(Sandbox::replica(places, &replica).control_data().await?) } else { None };
    let mut servers = host.servers.lock().await;
    let server = servers.get_mut(&monitor);
    let (running, log) = server.map_or((false, Vec::new()), |server| {
        let (running, mut log) = (server.postgres.runs(), server.postgres.log());
        if !running && server.postgres.killed_for_memory() {
            log.push("FATAL:  killed, as it used all the memory that the replica may have".into());
        }
        (running, log)
    });
    let socket_dir = places.cluster_run(monitor).join("socket").to_string_lossy().into_owned();
    let is_released = host.decisions.known() == Known::Released;
    let outside = if present { tablespaces::outside(&host.places.replica(monitor))? } else { None };
    Ok(ReplicaInfo { present, running, unverified, control, socket_dir, log, is_released, outside })
}

/// The network process checked the peer; here it is checked again, since that process may be compromised.
fn checked(host: &Host, peer: &Peer) -> Result<()> {
    peer.check().context("the peer is refused")?;
    host.decisions.admit(peer, Asked::Follow, &stored(host)?).context("the peer is refused")
}

/// The monitors of which this machine has a replica or backups, where the record does not say which one is paired: that
/// shows whether it is lost.
///
/// # Errors
/// It cannot be told: the data volume is not mounted or cannot be read.
fn stored(host: &Host) -> Result<Vec<Uuid>> {
    match host.decisions.known() {
        Known::Never | Known::Lost => host.places.monitors(),
        Known::Released | Known::Paired(_) => Ok(Vec::new()),
    }
}

async fn runs(host: &Host, monitor: Uuid) -> bool {
    host.servers.lock().await.get_mut(&monitor).is_some_and(|server| server.postgres.runs())
}

//! Serving requests: who may ask, one connection per request, one server per monitor.

use crate::cluster::{self, Server};
use crate::places::{Leftover, Places, leftovers};
use crate::replies::Replies;
use crate::{backup, btrfs, full_copy};
use anyhow::{Context, Result, bail, ensure};
use api::Peer;
use hostd::{MAX_FRAME, ReplicaInfo, Reply, Request};
use nix::unistd::Uid;
use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;
use uuid::Uuid;

/// The clusters on this machine. Locks are held while something changes: requests are rare, and two that change the
/// same replica must wait.
#[derive(Default)]
struct Clusters {
    /// The servers that run, by monitor.
    servers: Mutex<HashMap<Uuid, Server>>,
    /// Held during a full copy, which takes hours, while the servers answer.
    copying: Mutex<()>,
    /// What was left half made is deleted: at the start, or when the data volume was mended later.
    clean: Mutex<bool>,
}

/// Serves until SIGTERM or SIGINT, then stops every cluster.
pub async fn serve(places: Places, socket: &Path) -> Result<()> {
    let (observer, observer_group) = cluster::user_ids(&places.observer)?;
    let listener = listen(socket, observer_group.as_raw())?;
    let clusters: Arc<Clusters> = Arc::default();
    let places = Arc::new(places);
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    tracing::info!("listening on {}", socket.display());
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.context("cannot accept a connection")?.0,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        let (places, clusters) = (Arc::clone(&places), Arc::clone(&clusters));
        tokio::spawn(async move {
            if let Err(error) = answer(stream, observer, &places, &clusters).await {
                tracing::warn!("a request ended early: {error:#}");
            }
        });
    }
    for (monitor, server) in clusters.servers.lock().await.iter_mut() {
        tracing::info!(%monitor, "stopping the replica");
        server.stop().await?;
    }
    Ok(())
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

/// Deletes what a power cut left half made, before the first request is carried out that finds the data volume. What
/// cannot be deleted is reported and does not keep the rest from working.
async fn clean_up(places: &Places, clusters: &Clusters) {
    let mut clean = clusters.clean.lock().await;
    if *clean {
        return;
    }
    let leftovers = match leftovers(&places.data) {
        Ok(leftovers) => leftovers,
        Err(error) => return tracing::warn!("cannot look for what was left half made: {error:#}"),
    };
    *clean = true;
    for leftover in leftovers {
        let (path, deleted) = match &leftover {
            Leftover::Subvolume(path) => (path, btrfs::delete(path).await),
            Leftover::File(path) => (path, files::remove(path).map(drop)),
        };
        match deleted {
            Ok(()) => tracing::info!("deleted what was left half made: {}", path.display()),
            Err(error) => tracing::error!("cannot delete what was left half made: {error:#}"),
        }
    }
}

async fn answer(stream: UnixStream, observer: Uid, places: &Places, clusters: &Clusters) -> Result<()> {
    let asking = stream.peer_cred().context("cannot tell who asks")?.uid();
    let (read, write) = stream.into_split();
    let mut replies = Replies::new(write);
    if asking != observer.as_raw() && asking != 0 {
        bail!("user {asking} may not send requests");
    }
    let mut line = String::new();
    let mut read = BufReader::new(read.take(MAX_FRAME));
    read.read_line(&mut line).await.context("cannot read the request")?;
    // Nothing follows a request: what can be read then is the end of the connection.
    let left = pin!(async move {
        drop(read.read_u8().await);
    });
    let reply = match serde_json::from_str(&line) {
        Ok(request) => match carry_out(request, places, clusters, &mut replies, left).await {
            Ok(reply) => reply,
            Err(error) => {
                tracing::warn!("{error:#}");
                Reply::Failed { error: format!("{error:#}") }
            }
        },
        Err(error) => Reply::Failed { error: format!("unreadable request: {error}") },
    };
    replies.send(&reply).await
}

async fn carry_out(
    request: Request,
    places: &Places,
    clusters: &Clusters,
    replies: &mut Replies,
    left: Pin<&mut impl Future<Output = ()>>,
) -> Result<Reply> {
    clean_up(places, clusters).await;
    match request {
        Request::FullCopy { peer, tablespaces } => {
            checked(&peer)?;
            // An earlier copy whose client has left is being cleaned up.
            let _one_copy_at_a_time = clusters.copying.lock().await;
            ensure!(!runs(clusters, peer.id).await, "the replica runs; it is stopped before a full copy");
            full_copy::run(places, &peer, &tablespaces, replies, left).await?;
            Ok(Reply::Done)
        }
        Request::StartReplica { peer } => {
            checked(&peer)?;
            let mut servers = clusters.servers.lock().await;
            if let Some(server) = servers.get_mut(&peer.id)
                && server.runs()
            {
                if server.follows(&peer) {
                    return Ok(Reply::Done);
                }
                server.stop().await?;
            }
            servers.insert(peer.id, Server::start(places, &peer).await?);
            Ok(Reply::Done)
        }
        Request::StopReplica { monitor } => {
            if let Some(server) = clusters.servers.lock().await.get_mut(&monitor) {
                server.stop().await?;
            }
            Ok(Reply::Done)
        }
        Request::Replica { monitor } => {
            let replica = places.replica(monitor);
            let present = places.has_replica(monitor)?;
            let control = if present { Some(cluster::control_data(places, &replica).await?) } else { None };
            let mut servers = clusters.servers.lock().await;
            let server = servers.get_mut(&monitor);
            let (running, log) = server.map_or((false, Vec::new()), |server| (server.runs(), server.log()));
            let socket_dir = places.cluster_run(monitor).join("socket").to_string_lossy().into_owned();
            Ok(Reply::Replica(ReplicaInfo { present, running, control, socket_dir, log }))
        }
        Request::CreateBackup(request) => {
            Ok(Reply::Backup(Box::new(backup::create(places, *request).await?)))
        }
    }
}

/// The network process checked the peer; here it is checked again, since that process may be compromised.
fn checked(peer: &Peer) -> Result<()> {
    peer.check().context("the peer is refused")
}

async fn runs(clusters: &Clusters, monitor: Uuid) -> bool {
    clusters.servers.lock().await.get_mut(&monitor).is_some_and(Server::runs)
}

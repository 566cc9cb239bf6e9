//! Client of `hostd`, for the processes on the same machine.

use crate::{
    Access, BackupRequest, Change, CopyCheck, Disks, MAX_FRAME, Pairing, Refused, RefusedPeer, ReplicaInfo,
    Reply, Request, Tablespace,
};
use api::{Backup, Deletion, Depth, FtpSettings, Limits, Peer, RetentionState, RotationPlan, Usage};
use replica::CopyProgress;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use uuid::Uuid;

/// What went wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// `hostd` did what it could and says why it failed.
    #[error("{0}")]
    Failed(String),
    /// The network process may not, or not now.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// `hostd` does not answer.
    #[error(
        "the privileged process does not answer on {socket}: {cause}; see `systemctl status infimonitor-hostd`"
    )]
    NoAnswer {
        /// The socket.
        socket: PathBuf,
        /// Why.
        cause: String,
    },
}

/// What happens before the last reply.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// What is done with the disks, and how much of it is, in percent.
    Step(String, Option<f32>),
    /// How far a full copy is.
    Progress(CopyProgress),
    /// This backup was deleted to make room for it.
    Deleted(Deletion),
}

/// Connects anew for each request, so a restarted `hostd` is no event.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client for the `hostd` that listens on `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Makes a full copy, in the place of a replica if `replace` says so; `news` is called as it goes. Dropping the future
    /// ends the copy.
    pub async fn full_copy(
        &self,
        peer: &Peer,
        tablespaces: Vec<Tablespace>,
        replace: bool,
        news: impl FnMut(News),
    ) -> Result<(), ClientError> {
        let request = Request::FullCopy { peer: Box::new(peer.clone()), tablespaces, replace };
        self.ask(&request, news).await.map(drop)
    }

    /// Says whether [`Client::full_copy`] would be begun now, of which so many bytes are announced; nothing changes.
    ///
    /// # Errors
    /// [`ClientError::Refused`]: there is too little room.
    pub async fn try_copy(&self, monitor: Uuid, announced: u64) -> Result<(), ClientError> {
        self.ask(&Request::TryCopy { monitor, announced }, drop).await.map(drop)
    }

    /// Pairs with `peer`, or says that it was paired before; gives why not.
    pub async fn admit_peer(&self, peer: &Peer, is_new: bool) -> Result<Result<(), String>, ClientError> {
        self.admit(peer, is_new, false).await
    }

    /// Gives why `peer` could not be paired now, if it could not; nothing changes.
    pub async fn try_peer(&self, peer: &Peer) -> Result<Result<(), String>, ClientError> {
        self.admit(peer, true, true).await
    }

    async fn admit(
        &self,
        peer: &Peer,
        is_new: bool,
        is_trial: bool,
    ) -> Result<Result<(), String>, ClientError> {
        let request = Request::AdmitPeer { peer: Box::new(peer.clone()), is_new, is_trial };
        match self.ask(&request, drop).await? {
            Reply::Admitted { refused } => Ok(refused.map_or(Ok(()), Err)),
            other => Err(self.unexpected(&other)),
        }
    }

    /// What is known of the paired monitor.
    pub async fn pairing(&self) -> Result<Pairing, ClientError> {
        match self.ask(&Request::Pairing, drop).await? {
            Reply::Pairing(pairing) => Ok(pairing),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Which monitors were refused lately that the console might accept, the last one first.
    pub async fn refused_peers(&self) -> Result<Vec<RefusedPeer>, ClientError> {
        match self.ask(&Request::RefusedPeers, drop).await? {
            Reply::RefusedPeers(refused) => Ok(refused),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Starts the replica of `peer`.
    pub async fn start_replica(&self, peer: &Peer) -> Result<(), ClientError> {
        self.ask(&Request::StartReplica { peer: Box::new(peer.clone()) }, drop).await.map(drop)
    }

    /// Stops the replica of `monitor`.
    pub async fn stop_replica(&self, monitor: Uuid) -> Result<(), ClientError> {
        self.ask(&Request::StopReplica { monitor }, drop).await.map(drop)
    }

    /// Asks for the replica of `monitor`.
    pub async fn replica(&self, monitor: Uuid) -> Result<ReplicaInfo, ClientError> {
        match self.ask(&Request::Replica { monitor }, drop).await? {
            Reply::Replica(info) => Ok(info),
            other => Err(self.unexpected(&other)),
        }
    }

    /// What the processes of the replica say in their titles; nothing where it does not run.
    pub async fn working(&self, monitor: Uuid) -> Result<replica::Working, ClientError> {
        match self.ask(&Request::Working { monitor }, drop).await? {
            Reply::Working(working) => Ok(working),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Checks the last full copy. May take hours.
    pub async fn verify_copy(&self, monitor: Uuid) -> Result<CopyCheck, ClientError> {
        match self.ask(&Request::VerifyCopy { monitor }, drop).await? {
            Reply::CopyVerified(check) => Ok(check),
            other => Err(self.unexpected(&other)),
        }
    }

    /// The system identifier of the database that was accepted at the console to take the replica's place.
    pub async fn accepted_database(&self, monitor: Uuid) -> Result<Option<u64>, ClientError> {
        match self.ask(&Request::AcceptedDatabase { monitor }, drop).await? {
            Reply::AcceptedDatabase { system_identifier } => Ok(system_identifier),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Size of the replica's databases by their files, those of other tablespaces aside, in bytes; may take minutes.
    pub async fn replica_bytes(&self, monitor: Uuid) -> Result<u64, ClientError> {
        match self.ask(&Request::ReplicaBytes { monitor }, drop).await? {
            Reply::Bytes { bytes } => Ok(bytes),
            other => Err(self.unexpected(&other)),
        }
    }

    /// The limits of rotation, and what was wrong with what the console has decided.
    pub async fn limits(&self) -> Result<(Limits, Option<String>), ClientError> {
        match self.ask(&Request::Limits, drop).await? {
            Reply::Limits { limits, problem } => Ok((limits, problem)),
            other => Err(self.unexpected(&other)),
        }
    }

    /// How backups are served over FTP.
    pub async fn ftp(&self) -> Result<FtpSettings, ClientError> {
        match self.ask(&Request::Ftp, drop).await? {
            Reply::Ftp(settings) => Ok(settings),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Who may come to the ports.
    pub async fn access(&self) -> Result<Access, ClientError> {
        match self.ask(&Request::Access, drop).await? {
            Reply::Access(access) => Ok(access),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Makes a backup.
    pub async fn create_backup(&self, request: BackupRequest) -> Result<Backup, ClientError> {
        match self.ask(&Request::CreateBackup(Box::new(request)), drop).await? {
            Reply::Backup(backup) => Ok(*backup),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Changes what is on record of a backup.
    pub async fn change_backup(
        &self,
        monitor: Uuid,
        id: &str,
        change: Change,
    ) -> Result<Backup, ClientError> {
        match self.ask(&Request::ChangeBackup { monitor, id: id.into(), change }, drop).await? {
            Reply::Backup(backup) => Ok(*backup),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Reads a backup from end to end; may take hours. Dropping the future ends it.
    pub async fn read_backup(&self, monitor: Uuid, id: &str) -> Result<Backup, ClientError> {
        match self.ask(&Request::ReadBackup { monitor, id: id.into() }, drop).await? {
            Reply::Backup(backup) => Ok(*backup),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Proves that a backup restores; may take hours.
    pub async fn verify_backup(&self, monitor: Uuid, id: &str, depth: Depth) -> Result<Backup, ClientError> {
        match self.ask(&Request::VerifyBackup { monitor, id: id.into(), depth }, drop).await? {
            Reply::Backup(backup) => Ok(*backup),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Deletes what has to go; gives what went, and whether space is low while nothing may go.
    pub async fn rotate(&self, retention_days: Option<u32>) -> Result<(Vec<Deletion>, bool), ClientError> {
        match self.ask(&Request::Rotate { retention_days }, drop).await? {
            Reply::Rotated { deleted, stuck } => Ok((deleted, stuck)),
            other => Err(self.unexpected(&other)),
        }
    }

    /// What [`Client::rotate`] would do.
    pub async fn rotation_plan(&self, retention_days: Option<u32>) -> Result<RotationPlan, ClientError> {
        match self.ask(&Request::RotationPlan { retention_days }, drop).await? {
            Reply::RotationPlan(plan) => Ok(*plan),
            other => Err(self.unexpected(&other)),
        }
    }

    /// The retention period that counts, and what waits.
    pub async fn retention(&self) -> Result<RetentionState, ClientError> {
        match self.ask(&Request::Retention, drop).await? {
            Reply::Retention(state) => Ok(state),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Measures what takes the room: as a whole and, with `each`, bytes that each backup alone takes, by id.
    pub async fn measure_usage(
        &self,
        each: bool,
    ) -> Result<(Usage, Option<BTreeMap<String, u64>>), ClientError> {
        match self.ask(&Request::MeasureUsage { each }, drop).await? {
            Reply::Usage { usage, exclusive } => Ok((usage, exclusive)),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Sends a request that is answered by nothing but that it is done; for the console's, which need root.
    pub async fn order(&self, request: &Request) -> Result<(), ClientError> {
        match self.ask(request, drop).await? {
            Reply::Done => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// What the machine's disks are like.
    pub async fn disks(&self) -> Result<Disks, ClientError> {
        match self.ask(&Request::Disks, drop).await? {
            Reply::Disks(disks) => Ok(*disks),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Does something with the disks; `step` is told what is done, and how much of it is, in percent. Returns the last
    /// reply. Needs root.
    pub async fn change_disks(
        &self,
        request: &Request,
        mut step: impl FnMut(&str, Option<f32>),
    ) -> Result<Reply, ClientError> {
        let news = |news| {
            if let News::Step(text, percent) = news {
                step(&text, percent);
            }
        };
        self.ask(request, news).await
    }

    async fn ask(&self, request: &Request, mut news: impl FnMut(News)) -> Result<Reply, ClientError> {
        let no_answer = |error: std::io::Error| self.no_answer(error.to_string());
        let mut line = serde_json::to_vec(request).map_err(|error| self.no_answer(error.to_string()))?;
        line.push(b'\n');
        let (read, mut write) = UnixStream::connect(&self.socket).await.map_err(no_answer)?.into_split();
        write.write_all(&line).await.map_err(no_answer)?;
        let mut replies = BufReader::new(read);
        loop {
            let mut line = String::new();
            let mut limited = (&mut replies).take(MAX_FRAME);
            if limited.read_line(&mut line).await.map_err(no_answer)? == 0 {
                return Err(self.no_answer("it closed the connection".into()));
            }
            match serde_json::from_str(&line).map_err(|error| self.no_answer(error.to_string()))? {
                Reply::Progress(at) => news(News::Progress(at)),
                Reply::Step { step, percent } => news(News::Step(step, percent)),
                Reply::Deleted(deletion) => news(News::Deleted(deletion)),
                Reply::Failed { error } => return Err(ClientError::Failed(error)),
                Reply::Refused(refused) => return Err(ClientError::Refused(refused)),
                last => return Ok(last),
            }
        }
    }

    fn no_answer(&self, cause: String) -> ClientError {
        ClientError::NoAnswer { socket: self.socket.clone(), cause }
    }

    fn unexpected(&self, reply: &Reply) -> ClientError {
        self.no_answer(format!("it gave an unexpected reply: {reply:?}"))
    }
}

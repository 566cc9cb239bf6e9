//! The files as libunftp wants them: one directory, read-only.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use auth::throttle::group;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use unftp_core::auth::DefaultUser;
use unftp_core::storage::{
    Error, ErrorKind, FEATURE_RESTART, Fileinfo, Metadata, Permissions, Result, StorageBackend,
};

use crate::catalog::{Catalog, Item, Opened};
use crate::chunks::Chunks;
use crate::data::{DataStream, within};
use crate::pace::Pace;
use crate::path::{Place, resolve};
use crate::pattern::Pattern;
use crate::session::Session;
use crate::unfinished::Unfinished;

/// The files for one session.
#[derive(Debug)]
pub struct Backend {
    catalog: Catalog,
    session: Arc<Session>,
    stall: Duration,
    pace: Arc<Pace>,
    unfinished: Arc<Unfinished>,
}

/// Holds a backup while it is sent; unless its end was reached, for a while longer.
#[derive(Debug)]
struct Held {
    index: Option<(PathBuf, File)>,
    session: Arc<Session>,
    unfinished: Arc<Unfinished>,
}

impl Held {
    fn finished(&mut self) {
        if let Some((path, _)) = self.index.take() {
            self.unfinished.forget(&path);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(index) = self.index.take() {
            let source = group(self.session.client.address);
            self.unfinished.keep(self.session.number, source, index, Instant::now());
        }
    }
}

/// A file or the directory, as shown.
#[derive(Debug, Clone)]
pub struct Shown {
    bytes: u64,
    modified: SystemTime,
    is_directory: bool,
}

impl Shown {
    fn file(item: &Item) -> Self {
        Self { bytes: item.bytes, modified: item.modified, is_directory: false }
    }
}

impl Metadata for Shown {
    fn len(&self) -> u64 {
        self.bytes
    }
    fn is_dir(&self) -> bool {
        self.is_directory
    }
    fn is_file(&self) -> bool {
        !self.is_directory
    }
    fn is_symlink(&self) -> bool {
        false
    }
    fn modified(&self) -> Result<SystemTime> {
        Ok(self.modified)
    }
    fn gid(&self) -> u32 {
        0
    }
    fn uid(&self) -> u32 {
        0
    }
    fn permissions(&self) -> Permissions {
        Permissions(if self.is_directory { 0o555 } else { 0o444 })
    }
}

fn read_only<T>() -> Result<T> {
    Err(ErrorKind::PermissionDenied.into())
}

impl Backend {
    /// Serves a catalogue to a session; a client that takes nothing for `stall` loses its transfer. `pace` and
    /// `unfinished` are shared by all sessions.
    pub fn new(
        catalog: Catalog,
        session: Arc<Session>,
        stall: Duration,
        pace: Arc<Pace>,
        unfinished: Arc<Unfinished>,
    ) -> Self {
        Self { catalog, session, stall, pace, unfinished }
    }

    /// Does something with the catalogue where blocking is allowed.
    async fn with_catalog<T: Send + 'static>(
        &self,
        action: impl FnOnce(&Catalog) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.session.used();
        let catalog = self.catalog.clone();
        let result = tokio::task::spawn_blocking(move || action(&catalog)).await;
        let result = result.unwrap_or_else(|error| Err(io::Error::other(error)));
        result.map_err(|error| {
            tracing::error!("cannot read {}: {error}", self.catalog.root().display());
            self.session.fails("451 The backups cannot be read now");
            Error::new(ErrorKind::LocalError, error)
        })
    }

    fn missing(&self, reply: &'static str) -> Error {
        self.session.fails(reply);
        ErrorKind::PermanentFileNotAvailable.into()
    }

    async fn find(&self, path: &Path) -> Result<Item> {
        let missing = || self.missing("550 No such file");
        let Some(Place::Name(name)) = resolve(path) else { return Err(missing()) };
        let name = name.to_string();
        self.with_catalog(move |catalog| catalog.find(&name)).await?.ok_or_else(missing)
    }

    /// The files that a listing shows.
    async fn items(&self, path: &Path) -> Result<Vec<Item>> {
        let pattern = match resolve(path) {
            Some(Place::Root) => return self.with_catalog(Catalog::list).await,
            Some(Place::Name(name)) => Pattern::of(name),
            None => None,
        };
        let Some(pattern) = pattern else { return Ok(vec![self.find(path).await?]) };
        let mut items = self.with_catalog(Catalog::list).await?;
        items.retain(|item| pattern.matches(&item.name));
        if items.is_empty() { Err(self.missing("550 No files found")) } else { Ok(items) }
    }

    async fn open(&self, path: &Path, offset: u64) -> Result<(Chunks, Held)> {
        let item = self.find(path).await?;
        if offset > item.bytes {
            self.session.fails("550 The file ends before the offset of REST");
            let text = format!("{} has {} bytes, there is no offset {offset}", item.name, item.bytes);
            return Err(Error::new(ErrorKind::PermanentFileNotAvailable, text));
        }
        let Opened { content, index } = self.with_catalog(move |catalog| catalog.open(&item)).await?;
        let (session, unfinished) = (Arc::clone(&self.session), Arc::clone(&self.unfinished));
        Ok((Chunks::start(content, offset), Held { index, session, unfinished }))
    }

    /// The client's data connection, once it has shown that it is that. The session's deadline ends a wait in vain.
    async fn data_connection(&self) -> Result<DataStream> {
        let gone = || Error::from(io::Error::from(io::ErrorKind::NotConnected));
        let stream = self.session.take_data().ok_or_else(gone)?.await.map_err(|_| gone())?;
        self.session.data_connection_settled();
        Ok(stream)
    }

    async fn send(&self, path: &Path, offset: u64) -> Result<u64> {
        let (mut chunks, mut held) = self.open(path, offset).await.inspect_err(|_| {
            self.session.data_connection_settled(); // nothing more is owed
        })?;
        self.session.found();
        let mut output = self.data_connection().await?;
        let sent = self.send_chunks(path, &mut chunks, &mut output).await;
        // Its end, after a failure too: the reply says which it was.
        if !matches!(&sent, Err(error) if error.kind() == io::ErrorKind::TimedOut) {
            within(self.stall, output.shutdown()).await?;
        }
        let sent = sent?;
        held.finished();
        Ok(sent)
    }

    async fn send_chunks(
        &self,
        path: &Path,
        chunks: &mut Chunks,
        output: &mut DataStream,
    ) -> io::Result<u64> {
        let mut sent = 0;
        while let Some(chunk) = chunks.next().await.inspect_err(|error| {
            tracing::error!("{} stopped after {sent} bytes: {error}", path.display());
            self.session.fails("451 The backup cannot be read to its end");
        })? {
            let mut rest = chunk.bytes();
            while !rest.is_empty() {
                let count = within(self.stall, output.write(rest)).await?;
                if count == 0 {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                rest = &rest[count..];
                sent += count as u64;
                self.session.used();
                self.pace.sent(count).await;
            }
            chunks.reuse(chunk);
        }
        Ok(sent)
    }
}

#[async_trait]
impl StorageBackend<DefaultUser> for Backend {
    type Metadata = Shown;

    /// STAT shows this name.
    fn name(&self) -> &str {
        "backups"
    }

    fn supported_features(&self) -> u32 {
        FEATURE_RESTART
    }

    async fn metadata<P: AsRef<Path> + Send + Debug>(&self, _user: &DefaultUser, path: P) -> Result<Shown> {
        match resolve(path.as_ref()) {
            Some(Place::Root) => {
                let modified = self.with_catalog(|catalog| Ok(catalog.modified())).await?;
                Ok(Shown { bytes: 0, modified, is_directory: true })
            }
            _ => Ok(Shown::file(&self.find(path.as_ref()).await?)),
        }
    }

    async fn list<P>(&self, _user: &DefaultUser, path: P) -> Result<Vec<Fileinfo<PathBuf, Shown>>>
    where
        P: AsRef<Path> + Send + Debug,
    {
        let items = self.items(path.as_ref()).await?;
        self.session.found();
        Ok(items
            .iter()
            .map(|item| Fileinfo { path: (&item.name).into(), metadata: Shown::file(item) })
            .collect())
    }

    /// Sends to the client's data connection itself. What libunftp gives, `_output`, leads there too, at the price of
    /// one copy more and of not knowing what has arrived. Nor does its `_offset` count: it would keep one for the next
    /// transfer where this one fails, so it is never told.
    async fn get_into<'a, P, W>(
        &self,
        _user: &DefaultUser,
        path: P,
        _offset: u64,
        _output: &'a mut W,
    ) -> Result<u64>
    where
        W: AsyncWrite + Unpin + Sync + Send + ?Sized,
        P: AsRef<Path> + Send + Debug,
    {
        let (path, offset) = (path.as_ref(), self.session.take_restart());
        let result = tokio::select! {
            result = self.send(path, offset) => result,
            () = self.session.aborted() => {
                self.session.data_connection_settled();
                self.session.fails("426 The transfer was aborted");
                Err(io::Error::from(io::ErrorKind::ConnectionAborted).into())
            }
        };
        match &result {
            Ok(sent) => tracing::info!("{} sent: {sent} bytes from {offset}", path.display()),
            Err(error) => {
                tracing::warn!("{} not sent from {offset}: {error}", path.display());
                self.session.fails("426 The data connection broke off");
            }
        }
        result
    }

    async fn get<P: AsRef<Path> + Send + Debug>(
        &self,
        _user: &DefaultUser,
        path: P,
        offset: u64,
    ) -> Result<Box<dyn AsyncRead + Send + Sync + Unpin>> {
        // libunftp asks for this only where `get_into` is not given; nothing is held here.
        let (chunks, mut held) = self.open(path.as_ref(), offset).await?;
        held.finished();
        Ok(Box::new(chunks))
    }

    async fn put<P: AsRef<Path> + Send + Debug, R: AsyncRead + Send + Sync + Unpin + 'static>(
        &self,
        _user: &DefaultUser,
        _input: R,
        _path: P,
        _offset: u64,
    ) -> Result<u64> {
        read_only()
    }

    async fn del<P: AsRef<Path> + Send + Debug>(&self, _user: &DefaultUser, _path: P) -> Result<()> {
        read_only()
    }

    async fn mkd<P: AsRef<Path> + Send + Debug>(&self, _user: &DefaultUser, _path: P) -> Result<()> {
        read_only()
    }

    async fn rename<P: AsRef<Path> + Send + Debug>(
        &self,
        _user: &DefaultUser,
        _from: P,
        _to: P,
    ) -> Result<()> {
        read_only()
    }

    async fn rmd<P: AsRef<Path> + Send + Debug>(&self, _user: &DefaultUser, _path: P) -> Result<()> {
        read_only()
    }

    async fn cwd<P: AsRef<Path> + Send + Debug>(&self, _user: &DefaultUser, path: P) -> Result<()> {
        match resolve(path.as_ref()) {
            Some(Place::Root) => Ok(()),
            _ => Err(ErrorKind::PermanentDirectoryNotAvailable.into()),
        }
    }
}

//! Where the programs of a cluster run: `hostd cluster-exec` with what that cluster may see.
//!
//! A replica talks to the monitor. A clone for verification talks to nobody: it has its own user, no network, and
//! neither the sockets nor the passwords of the replicas; and since nobody waits for it, it gets the processor and the
//! disk only when nobody else wants them (design D7, D9).

use crate::places::{COPYING_SUFFIX, HIDDEN, Places};
use crate::program::{self, Bounds};
use crate::scope::{Scope, Share};
use anyhow::{Context, Result};
use nix::unistd::{Gid, Group, Uid, User};
use replica::ControlData;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// Ids of a user.
pub fn user_ids(name: &str) -> Result<(Uid, Gid)> {
    let user = User::from_name(name)
        .with_context(|| format!("cannot look up user {name}"))?
        .with_context(|| format!("there is no user {name}"))?;
    Ok((user.uid, user.gid))
}

/// Id of a group.
pub fn group_id(name: &str) -> Result<Gid> {
    Ok(Group::from_name(name)
        .with_context(|| format!("cannot look up group {name}"))?
        .with_context(|| format!("there is no group {name}"))?
        .gid)
}

/// What kind of cluster it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Replica,
    Clone,
}

/// The place of one cluster.
#[derive(Debug, Clone, Copy)]
pub struct Sandbox<'a> {
    places: &'a Places,
    subvolume: &'a Path,
    kind: Kind,
    in_background: bool,
}

impl<'a> Sandbox<'a> {
    /// Of a replica, or a copy that becomes one.
    pub fn replica(places: &'a Places, subvolume: &'a Path) -> Self {
        Self { places, subvolume, kind: Kind::Replica, in_background: false }
    }

    /// Of a clone for verification.
    pub fn clone_of_backup(places: &'a Places, subvolume: &'a Path) -> Self {
        Self { places, subvolume, kind: Kind::Clone, in_background: true }
    }

    /// The same, for what nobody waits for.
    pub fn in_background(self) -> Self {
        Self { in_background: true, ..self }
    }

    /// The user that its programs run as.
    pub fn user(&self) -> &'a str {
        match self.kind {
            Kind::Replica => &self.places.cluster_user,
            Kind::Clone => &self.places.verifier,
        }
    }

    /// Its control group; `None` where nothing is delegated to hostd.
    pub fn scope(&self) -> Option<Scope> {
        let name = self.subvolume.file_name().unwrap_or_default().to_string_lossy();
        let is_below = |folder: &str| self.subvolume.parent() == Some(&self.places.data.join(folder));
        let (name, share) = match self.kind {
            Kind::Clone => ("verification".to_owned(), Share::Background),
            // What is asked of a backup: it has no server.
            Kind::Replica if !is_below("replica") => ("backup".to_owned(), Share::Copy),
            Kind::Replica if self.in_background => (format!("check-{name}"), Share::Background),
            Kind::Replica if name.ends_with(COPYING_SUFFIX) => (format!("replica-{name}"), Share::Copy),
            Kind::Replica => (format!("replica-{name}"), Share::Replica),
        };
        self.places.scopes.get(&name, share)
    }

    /// The folder of a replica's socket.
    fn socket(&self) -> Option<PathBuf> {
        let name = self.subvolume.file_name()?.to_str()?;
        Some(self.places.cluster_run(name.parse().ok()?).join("socket"))
    }

    /// How many programs of its group were killed so far because memory was short. One more than before is trouble of the
    /// machine, whatever the program's end looks like.
    pub fn memory_kills(&self) -> u64 {
        self.scope().map_or(0, |scope| scope.memory_kills())
    }

    /// A command of it, with no input, that is killed when it is dropped.
    pub fn command<I, S>(&self, program: &Path, arguments: I) -> Result<Command>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let own = std::env::current_exe().context("cannot find my own program")?;
        let clusters = self.places.run.join("clusters");
        let mut hidden: Vec<&Path> = HIDDEN.iter().map(Path::new).collect();
        hidden.push(&self.places.data);
        if self.kind == Kind::Clone {
            hidden.push(&clusters);
        }
        let mut command = if self.in_background {
            let mut command = Command::new("nice");
            command.args(["-n", "19", "ionice", "-c", "3"]).arg(own);
            command
        } else {
            Command::new(own)
        };
        command
            .arg("cluster-exec")
            .arg("--supervisor")
            .arg(std::process::id().to_string())
            .arg("--subvolume")
            .arg(self.subvolume)
            .args(["--user", self.user()]);
        match self.kind {
            Kind::Clone => {
                command.arg("--no-network");
            }
            // Where its server has its socket; a copy, and what is asked of a backup, has none.
            Kind::Replica => {
                if let Some(socket) = self.socket().filter(|socket| socket.is_dir()) {
                    command.arg("--writable").arg(socket);
                }
            }
        }
        if let Some(scope) = self.scope() {
            command.arg("--scope").arg(scope.folder());
        }
        for folder in hidden {
            command.arg("--hide").arg(folder);
        }
        command.arg("--").arg(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        Ok(command)
    }

    /// Runs a program to its end, within `bounds`, and gives what it printed.
    ///
    /// # Errors
    /// It did not end well: see [`program::Failure`], which is the error's cause.
    pub async fn output<I, S>(&self, program: &Path, arguments: I, bounds: Bounds) -> Result<String>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let printed = program::output(self.command(program, arguments)?, bounds).await?;
        Ok(String::from_utf8_lossy(&printed).into_owned())
    }

    /// What `pg_control` of the cluster says.
    pub async fn control_data(&self) -> Result<ControlData> {
        let printed =
            self.output(&self.places.program("pg_controldata"), [replica::PGDATA], Bounds::SHORT).await?;
        Ok(ControlData::parse(&printed)?)
    }
}

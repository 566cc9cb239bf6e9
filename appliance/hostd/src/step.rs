//! The named steps of what changes the data volume: the moments between which a crash leaves something half made.
//!
//! That each can be the last one, and nothing is lost or left over, is a promise (issue 4); tests keep it by having the
//! process killed there. In builds without debug assertions naming a step costs a comparison of nothing.

use std::time::Duration;

/// Environment variable that names the step at which the process kills itself, in builds with debug assertions.
pub const KILL_AT: &str = "HOSTD_KILL_AT";

/// Environment variable with the most seconds that any outside program may take, in builds with debug assertions: a test cannot
/// wait for half an hour until one that hangs is given up.
pub const TIME_LIMIT: &str = "HOSTD_TIME_LIMIT";

/// The time that an outside program may take: `time`, or less where [`TIME_LIMIT`] says so.
pub fn time_limit(time: Duration) -> Duration {
    let shorter = || Some(Duration::from_secs(std::env::var(TIME_LIMIT).ok()?.parse().ok()?));
    if cfg!(debug_assertions) { shorter().map_or(time, |shorter| time.min(shorter)) } else { time }
}

macro_rules! steps {
    ($($(#[$doc:meta])* $step:ident = $name:literal,)*) => {
        /// A step after which a crash is made good.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Step {
            $($(#[$doc])* $step,)*
        }

        impl Step {
            /// Its name, as [`KILL_AT`] takes it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$step => $name,)* }
            }
        }
    };
}

steps! {
    /// A full copy: the subvolume is there, and empty.
    CopyBegun = "copy-begun",
    /// A full copy: some bytes have come.
    CopyUnderWay = "copy-under-way",
    /// A full copy: all bytes have come, under the monitor's configuration.
    CopyReceived = "copy-received",
    /// A full copy: it is ours, and has no name yet.
    CopyAdopted = "copy-adopted",
    /// A full copy: it is the replica.
    CopyNamed = "copy-named",
    /// A full copy: it is kept as it came, for its check.
    CopyKept = "copy-kept",
    /// A full copy in the place of a replica: both have changed places.
    CopyExchanged = "copy-exchanged",
    /// A backup: the snapshot is there.
    BackupSnapshot = "backup-snapshot",
    /// A backup: its tar index is there.
    BackupIndex = "backup-index",
    /// A backup: its manifest is there.
    BackupManifest = "backup-manifest",
    /// A backup: it has its name.
    BackupNamed = "backup-named",
    /// A deletion: the backup has lost its name.
    DeletionUnnamed = "deletion-unnamed",
    /// A deletion: manifest and index are gone.
    DeletionRecords = "deletion-records",
    /// A deletion: the subvolume is gone, its space is not free yet.
    DeletionSubvolume = "deletion-subvolume",
    /// A verification: the clone is there.
    VerificationClone = "verification-clone",
    /// A verification: the clone's server runs.
    VerificationStarted = "verification-started",
    /// A verification: the clone is a database of its own.
    VerificationPromoted = "verification-promoted",
    /// A verification: there is a result, which is not on record.
    VerificationResult = "verification-result",
    /// A verification: the result is on record.
    VerificationRecorded = "verification-recorded",
}

/// Says that `step` was done. Where [`KILL_AT`] names it, the process ends here, as by a power cut.
pub fn reached(step: Step) {
    tracing::debug!("step {}", step.name());
    if cfg!(debug_assertions) && std::env::var(KILL_AT).is_ok_and(|name| name == step.name()) {
        tracing::warn!("ends at step {}, as {KILL_AT} says", step.name());
        // A process cannot outlive this; were it refused, the test that asked for it fails.
        if let Err(error) =
            nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL)
        {
            tracing::error!("cannot end here: {error}");
        }
    }
}

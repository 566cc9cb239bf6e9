//! What only the console may ask: each order is one request on the local socket, as root.
//!
//! The network password must not suffice to destroy a backup (design D14), so these have no place in the control API.

use crate::catalog;
use crate::console_disks::{Teller, scrubbed, show};
use crate::console_limits::{self, NewLimits};
use anyhow::{Context, Result, bail};
use api::{Fingerprint, FtpSettings};
use clap::Subcommand;
use hostd::{Access, Change, Client, Pairing, RefusedPeer, Reply, Request};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use storage::life::Incoming;
use uuid::Uuid;

/// The orders.
#[derive(Debug, Subcommand)]
pub enum Order {
    /// Delete a backup
    DeleteBackup(Which),
    /// Let rotation delete a pinned backup again
    Unpin(Which),
    /// Confirm that the clock is right although it was moved, so that backups expire by age again
    ConfirmClock,
    /// Let another database take the place of the replica, after a backup of what is there
    AcceptDatabase {
        /// The monitor's UUID, as the status says it
        #[arg(long)]
        monitor: Uuid,
        /// System identifier of the other database, as the status says it
        #[arg(long)]
        system_identifier: u64,
    },
    /// Give up the replica of a monitor, where it fills the data volume or cannot go on, and have a full copy made: what the
    /// monitor has written since the newest backup is at the monitor alone until that copy is complete
    DiscardReplica {
        /// The monitor's UUID, as the status says it; the paired one without it
        #[arg(long)]
        monitor: Option<Uuid>,
    },
    /// Let a monitor pair with this server that has another key than the paired one, or is another one, or confirm the paired
    /// one after its record was lost; without options, list those that were refused lately
    AcceptPeer {
        /// Number of one in that list; compare its key with what `monitor-link setup` shows at the monitor
        #[arg(long, conflicts_with_all = ["monitor", "key"])]
        number: Option<u32>,
        /// The monitor's UUID, as the refusal says it
        #[arg(long, requires = "key")]
        monitor: Option<Uuid>,
        /// Its key, as the refusal says it and `monitor-link setup` shows it at the monitor: compare them
        #[arg(long, requires = "monitor")]
        key: Option<Fingerprint>,
    },
    /// Let the monitor say something of itself with this number although the clock, or the number before it, speaks against it
    ConfirmPeer {
        /// The number, as the refusal says it
        #[arg(long)]
        number: u64,
    },
    /// Let the paired monitor go: it is followed no more, its backups stay, and any monitor may be paired
    ReleasePeer,
    /// Show the limits of rotation, or set those that are named
    Limits(NewLimits),
    /// Show how long backups are kept, or decide on a shorter period that the network has asked for
    Retention {
        /// Let the shorter period of so many days count at once: the backups that are older are deleted
        #[arg(long, value_name = "DAYS", conflicts_with = "refuse")]
        confirm: Option<u32>,
        /// Refuse the shorter period
        #[arg(long)]
        refuse: bool,
    },
    /// Let rotation delete another day's share of the list at once, because space is low, and let a full copy that found no
    /// room be tried again
    AllowRotation,
    /// Show who may come to the ports, or set it
    Firewall {
        /// The paired monitor alone: no other machine can restore from here then, nor the monitor under a new address
        #[arg(long)]
        peer_only: Option<bool>,
    },
    /// Show the machine's disks, those that could come in, and the last scrub
    Disks,
    /// Have a disk take the place of one that is missing or fails, while the server goes on
    ReplaceDisk {
        /// The disk that fails, such as /dev/sda or its link in /dev/disk/by-id; without it, the one that is missing
        #[arg(long)]
        old: Option<PathBuf>,
        /// The disk that takes its place, such as /dev/sdc or its link in /dev/disk/by-id
        new: PathBuf,
        /// Although the new one is not empty: all on it is lost
        #[arg(long)]
        erase: bool,
        /// Overwrite all of the old one with zeros afterwards, which takes hours; without it what was stored there can still be
        /// read, though no machine starts from it
        #[arg(long, requires = "old")]
        wipe_old: bool,
    },
    /// Take in one more disk, while the server goes on
    AddDisk {
        /// The disk, such as /dev/sdc or its link in /dev/disk/by-id
        new: PathBuf,
        /// Although it is not empty: all on it is lost
        #[arg(long)]
        erase: bool,
    },
    /// Use all of a disk that has grown, such as a virtual one
    GrowDisks,
    /// Have everything be kept as the disks allow; the server does so by itself when it starts
    BalanceDisks,
    /// Count the disks' errors anew, when the cause of those that there were is known and gone
    ClearDiskErrors,
    /// Read all that is stored, and mend what is wrong from its second copy
    Scrub,
    /// Show how backups are served over FTP, or set what is named
    Ftp {
        /// Serve clear FTP too: passwords and backups can then be read on the network
        #[arg(long)]
        allow_clear: Option<bool>,
        /// Serve clients whose data connections do not resume the TLS session of the control connection: whoever shares
        /// such a client's address can then take its place
        #[arg(long)]
        allow_unproven_data: Option<bool>,
        /// IPv4 address under which clients reach this server, when it is behind NAT; `none`: the one they connect to
        #[arg(long, value_parser = or_none::<Ipv4Addr>)]
        passive_address: Option<Setting<Ipv4Addr>>,
        /// All downloads together take no more than this; `none`: what there is
        #[arg(long, value_parser = or_none::<u64>)]
        bytes_per_second: Option<Setting<u64>>,
    },
}

/// A value, or that there is none.
#[derive(Debug, Clone, Copy)]
pub struct Setting<T>(Option<T>);

fn or_none<T: FromStr>(text: &str) -> Result<Setting<T>, T::Err> {
    if text == "none" { Ok(Setting(None)) } else { text.parse().map(|value| Setting(Some(value))) }
}

/// A backup.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// Its id
    id: String,
    /// Whose it is, where several monitors have one of this id
    #[arg(long)]
    monitor: Option<Uuid>,
}

impl Which {
    fn owner(&self, data: &Path) -> Result<Uuid> {
        let id = self.id.parse().with_context(|| format!("{:?} is no id of a backup", self.id))?;
        self.monitor.map_or_else(|| catalog::owner(data, &id), Ok)
    }
}

/// Carries out an order by asking the `hostd` that listens on `socket`.
pub async fn run(order: Order, data: &Path, socket: &Path) -> Result<()> {
    let client = Client::new(socket);
    match order {
        Order::DeleteBackup(which) => {
            let monitor = which.owner(data)?;
            client.order(&Request::DeleteBackup { monitor, id: which.id.clone() }).await?;
            println!("backup {} is deleted", which.id);
        }
        Order::Unpin(which) => {
            client.change_backup(which.owner(data)?, &which.id, Change::Pinned(false)).await?;
            println!("backup {} is not pinned any more", which.id);
        }
        Order::ConfirmClock => {
            client.order(&Request::ConfirmClock).await?;
            println!("the clock counts as right from now on");
        }
        Order::AcceptDatabase { monitor, system_identifier } => {
            client.order(&Request::AcceptDatabase { monitor, system_identifier }).await?;
            println!("a backup is made of the replica of {monitor}, and then it is replaced");
        }
        Order::AcceptPeer { number, monitor, key } => {
            let refused = client.refused_peers().await?;
            let (monitor, key) = match (number, monitor.zip(key)) {
                (_, Some((monitor, key))) => (monitor, key.to_string()),
                (Some(number), None) => {
                    let chosen = refused.iter().find(|refused| refused.number == number);
                    let RefusedPeer { monitor, key, .. } =
                        chosen.with_context(|| format!("there is no number {number} in the list"))?;
                    (*monitor, key.clone())
                }
                (None, None) => {
                    for RefusedPeer { number, monitor, key, endpoint } in &refused {
                        println!("{number}  monitor {monitor} at {endpoint}, key {key}");
                    }
                    if refused.is_empty() {
                        println!("no monitor was refused since this server has started");
                    } else {
                        println!("accept one with `--number`, if its key is the one that the monitor shows");
                    }
                    return Ok(());
                }
            };
            client.order(&Request::AcceptPeer { monitor, key: key.clone() }).await?;
            match client.pairing().await? {
                Pairing::Paired { monitor: paired, key: pinned, .. }
                    if (paired, &pinned) == (monitor, &key) =>
                {
                    println!("monitor {monitor} is paired, with key {key}");
                }
                _ => println!("monitor {monitor} may be paired once, with key {key}; pair it now"),
            }
        }
        Order::ConfirmPeer { number } => {
            client.order(&Request::ConfirmPeer { number }).await?;
            println!(
                "the monitor may use the number {number}; pair it now with what `monitor-link setup` has printed"
            );
        }
        Order::DiscardReplica { monitor } => {
            let monitor = match (monitor, client.pairing().await?) {
                (Some(monitor), _) | (None, Pairing::Paired { monitor, .. }) => monitor,
                (None, _) => {
                    bail!("no monitor is paired; name the one whose replica is meant with --monitor")
                }
            };
            client.order(&Request::DiscardReplica { monitor }).await?;
            println!(
                "the replica is given up; a full copy is made as soon as there is room, and all backups are kept"
            );
        }
        Order::ReleasePeer => {
            client.order(&Request::ReleasePeer).await?;
            println!("no monitor is followed any more; its backups are kept, and another one may be paired");
        }
        Order::Limits(named) => console_limits::limits(&client, &named).await?,
        Order::Retention { confirm, refuse } => console_limits::retention(&client, confirm, refuse).await?,
        Order::AllowRotation => {
            client.order(&Request::AllowRotation).await?;
            println!(
                "rotation may delete another day's share of the list, and a full copy may be tried again"
            );
        }
        Order::Firewall { peer_only } => {
            if let Some(peer_only) = peer_only {
                client.order(&Request::SetPeerOnly(peer_only)).await?;
            }
            let Access { peer_only, peer } = client.access().await?;
            let peer = peer.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            println!("the ports are open to {}", if peer_only { &peer } else { "everybody" });
        }
        Order::Disks => show(&client.disks().await?),
        Order::ReplaceDisk { old, new, erase, wipe_old } => {
            let leaves = old.clone();
            let new = Incoming { device: new, erase };
            change_disks(&client, &Request::ReplaceDisk { old, new, wipe: wipe_old }).await?;
            println!("the disk is in its place");
            if let Some(old) = leaves {
                // Seen with SeaBIOS: of several hard disks it tries the first one alone.
                println!(
                    "take {} out before the next start, or have the firmware start from another disk: some BIOSes try the \
                     first disk alone, and this one starts no machine any more",
                    old.display()
                );
            }
        }
        Order::AddDisk { new, erase } => {
            change_disks(&client, &Request::AddDisk(Incoming { device: new, erase })).await?;
            println!("the disk is taken in");
        }
        Order::GrowDisks => {
            if let Reply::Grown(grown) = change_disks(&client, &Request::GrowDisks).await? {
                let none = grown.is_empty();
                println!(
                    "{}",
                    if none {
                        "no disk has grown".into()
                    } else {
                        format!("all of {} is used", grown.join(", "))
                    }
                );
            }
        }
        Order::BalanceDisks => {
            change_disks(&client, &Request::BalanceDisks).await?;
            println!("everything is kept as the disks allow");
        }
        Order::ClearDiskErrors => {
            change_disks(&client, &Request::ClearDiskErrors).await?;
            println!("errors are counted anew");
        }
        Order::Scrub => {
            if let Reply::Scrubbed(scrub) = change_disks(&client, &Request::Scrub).await? {
                println!("{}", scrubbed(&scrub));
            }
        }
        Order::Ftp { allow_clear, allow_unproven_data, passive_address, bytes_per_second } => {
            let old = client.ftp().await?;
            let new = FtpSettings {
                allow_clear: allow_clear.unwrap_or(old.allow_clear),
                allow_unproven_data: allow_unproven_data.unwrap_or(old.allow_unproven_data),
                passive_address: passive_address.map_or(old.passive_address, |set| set.0),
                bytes_per_second: bytes_per_second.map_or(old.bytes_per_second, |set| set.0),
            };
            if new != old {
                client.order(&Request::SetFtp(new)).await?;
            }
            println!(
                "TLS: {}",
                if new.allow_clear { "not required, clear FTP is served too" } else { "required" }
            );
            println!(
                "TLS session resumption on data connections: {}",
                if new.allow_unproven_data { "not required" } else { "required" }
            );
            let address = new.passive_address.map_or("the one they connect to".into(), |set| set.to_string());
            println!("address for passive connections: {address}");
            let limit = new.bytes_per_second.map_or("none".into(), |set| format!("{set} bytes per second"));
            println!("limit of all downloads together: {limit}");
        }
    }
    Ok(())
}

/// Has something done with the disks, and tells how far it is.
async fn change_disks(client: &Client, request: &Request) -> Result<Reply> {
    let mut teller = Teller::new();
    let reply = client.change_disks(request, |step, percent| teller.tell(step, percent)).await;
    teller.end();
    Ok(reply?)
}

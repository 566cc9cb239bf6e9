//! What the machine has, and the plan for it with everything that should be known before anything is erased.

use std::fs;

use anyhow::{Context, Result, bail};
use storage::inventory::{self, Disk, gigabytes};
use storage::plan::{self, Firmware, Plan, Wish};
use storage::sizing;

/// A machine that is to be installed.
#[derive(Debug, Clone)]
pub struct Machine {
    /// How it was booted, and will boot.
    pub firmware: Firmware,
    /// Processor cores.
    pub cores: u32,
    /// Memory in bytes, as the kernel sees it.
    pub memory_bytes: u64,
    /// Its disks.
    pub disks: Vec<Disk>,
}

impl Machine {
    /// Looks at this one.
    ///
    /// # Errors
    /// The kernel or `lsblk` does not tell.
    pub fn look() -> Result<Self> {
        let cores = std::thread::available_parallelism().context("cannot count the processors")?;
        let memory = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
        Ok(Self {
            firmware: Firmware::of_this_machine(),
            cores: u32::try_from(cores.get()).unwrap_or(u32::MAX),
            memory_bytes: sizing::memory_bytes(&memory).context("/proc/meminfo has no MemTotal")?,
            disks: inventory::read()?,
        })
    }

    /// The plan for a wish, and for whom the machine is large enough then.
    ///
    /// # Errors
    /// There is no plan, or the machine is below the least.
    pub fn plan(&self, wish: &Wish) -> Result<(Plan, String)> {
        let plan = plan::plan(&self.disks, wish, self.firmware)?;
        let size = sizing::Machine {
            cores: self.cores,
            memory_bytes: self.memory_bytes,
            usable_bytes: plan.usable_bytes,
        };
        let refusals = sizing::refusals(&size);
        if !refusals.is_empty() {
            bail!("{}", refusals.join("; "));
        }
        Ok((plan, sizing::verdict(&size)))
    }
}

/// Whether the disks of a plan are still those that it was made for: `now` are those that there are.
///
/// # Errors
/// One is gone, is another one, or holds something else; nothing may be erased then.
pub fn unchanged(plan: &Plan, now: &[Disk]) -> Result<()> {
    for planned in &plan.disks {
        let before = &planned.disk;
        let found = now.iter().find(|disk| disk.device == before.device);
        let Some(found) = found else { bail!("{} is gone; look at the disks again", before.title()) };
        // Its health may have been asked too late, and udev may have made more links to it.
        let found_then = Disk { health: before.health, links: before.links.clone(), ..found.clone() };
        if found_then != *before {
            bail!(
                "{} is not as it was shown: it is {} now, and {}; look at the disks again",
                before.title(),
                found.title(),
                match found.contents.as_slice() {
                    [] => "blank".to_owned(),
                    some => format!("holds {}", some.join(", ")),
                }
            );
        }
    }
    Ok(())
}

/// A plan as lines: the disks that are taken, how data is kept, what is left out and what should be known.
pub fn lines(plan: &Plan) -> Vec<String> {
    let taken = plan.disks.iter().map(|planned| format!("takes {}", planned.disk.title()));
    let starts = plan.disks.iter().map(|planned| {
        format!(
            "{} gets the boot set, so that the machine starts from it too; partitions on multiples of {} KiB",
            planned.disk.device.display(),
            planned.alignment_bytes / 1024
        )
    });
    let data = format!(
        "data: {} over {}, {} for backups",
        plan.profile.name(),
        match plan.disks.len() {
            1 => "one disk".to_owned(),
            count => format!("{count} disks"),
        },
        gigabytes(plan.usable_bytes)
    );
    let left_out =
        plan.left_out.iter().map(|out| format!("leaves {} alone: it {}", out.disk.title(), out.reason));
    taken.chain(starts).chain([data]).chain(left_out).chain(plan.notes.iter().cloned()).collect()
}

//! Whether a machine is large enough, by the profiles of design section 7. Pure.
//!
//! Below the least there is no installation; below a profile it is said what falls short, and whoever installs
//! decides.

use crate::inventory::gigabytes;

/// What a machine has, as far as its size is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Processor cores.
    pub cores: u32,
    /// Memory in bytes, as the kernel sees it.
    pub memory_bytes: u64,
    /// Bytes that *data* can hold.
    pub usable_bytes: u64,
}

/// For how many devices that a monitor watches a machine is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Devices.
    pub devices: u32,
    /// Cores.
    pub cores: u32,
    /// Memory in GB.
    pub memory_gb: u64,
    /// Disk in GB.
    pub disk_gb: u64,
}

/// The profiles, the smaller first.
pub const PROFILES: [Profile; 2] = [
    Profile { devices: 2_000, cores: 4, memory_gb: 6, disk_gb: 500 },
    Profile { devices: 10_000, cores: 6, memory_gb: 8, disk_gb: 1_000 },
];

/// The least memory in bytes: 1 GB.
const LEAST_MEMORY: u64 = 1_000_000_000;
/// Firmware and kernel keep some of what is plugged in, and disks have a boot set: so much less still counts.
const TOLERATED_PERCENT: u64 = 10;

/// Memory in bytes, of what `/proc/meminfo` says.
pub fn memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// What falls short of the least: then there is no installation.
pub fn refusals(machine: &Machine) -> Vec<String> {
    let mut refusals = Vec::new();
    if short(machine.memory_bytes, LEAST_MEMORY) {
        refusals.push(format!(
            "the machine has {} MB of memory, and 1 GB is the least",
            machine.memory_bytes / 1_000_000
        ));
    }
    refusals
}

impl Profile {
    /// What falls short of this profile, as sentences; nothing: the machine suits it.
    pub fn shortfalls(&self, machine: &Machine) -> Vec<String> {
        let mut shortfalls = Vec::new();
        if machine.cores < self.cores {
            shortfalls.push(format!("{} cores and not {}", machine.cores, self.cores));
        }
        if short(machine.memory_bytes, self.memory_gb * 1_000_000_000) {
            let memory = machine.memory_bytes as f64 / 1e9;
            shortfalls.push(format!("{memory:.1} GB of memory and not {} GB", self.memory_gb));
        }
        if short(machine.usable_bytes, self.disk_gb * 1_000_000_000) {
            let (has, wants) = (gigabytes(machine.usable_bytes), gigabytes(self.disk_gb * 1_000_000_000));
            shortfalls.push(format!("{has} for backups and not {wants}"));
        }
        shortfalls
    }
}

fn short(has: u64, wants: u64) -> bool {
    has < wants / 100 * (100 - TOLERATED_PERCENT)
}

/// For whom the machine is large enough, as one sentence.
pub fn verdict(machine: &Machine) -> String {
    let suits = PROFILES.iter().rev().find(|profile| profile.shortfalls(machine).is_empty());
    let next = PROFILES.iter().find(|profile| !profile.shortfalls(machine).is_empty());
    let missing = next.map(|profile| {
        let shortfalls = profile.shortfalls(machine).join(", ");
        format!("for {} devices it has {shortfalls}", profile.devices)
    });
    match (suits, missing) {
        (Some(profile), None) => {
            format!("The machine suits a monitor with up to {} devices.", profile.devices)
        }
        (Some(profile), Some(missing)) => {
            format!("The machine suits a monitor with up to {} devices; {missing}.", profile.devices)
        }
        (None, Some(missing)) => format!("The machine is small: {missing}."),
        (None, None) => "The machine's size cannot be judged.".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    #[test]
    fn each_machine_is_told_what_it_is_large_enough_for() {
        let table = [
            ((8, 16, 2_000), "The machine suits a monitor with up to 10000 devices."),
            (
                (4, 8, 1_990),
                "The machine suits a monitor with up to 2000 devices; for 10000 devices it has 4 cores and not 6.",
            ),
            (
                (4, 0, 0),
                "The machine is small: for 2000 devices it has 0.0 GB of memory and not 6 GB, 0 GB for backups and \
                 not 500 GB.",
            ),
        ];
        for ((cores, memory, disk), expected) in table {
            let machine = Machine { cores, memory_bytes: memory * GB, usable_bytes: disk * GB };
            assert_eq!(verdict(&machine), expected);
        }
        // What is sold as 6 GB and 500 GB, less what firmware and boot set take.
        let sold = Machine { cores: 4, memory_bytes: 5_800_000_000, usable_bytes: 495 * GB };
        assert!(PROFILES[0].shortfalls(&sold).is_empty());
    }

    #[test]
    fn below_the_least_there_is_no_installation() {
        let machine = |memory_bytes| Machine { cores: 1, memory_bytes, usable_bytes: 0 };
        assert_eq!(refusals(&machine(1_000_000_000)), Vec::<String>::new());
        // A machine of 1 GiB shows about this.
        assert_eq!(refusals(&machine(980_000_000)), Vec::<String>::new());
        assert_eq!(
            refusals(&machine(512_000_000)),
            ["the machine has 512 MB of memory, and 1 GB is the least"]
        );
    }

    #[test]
    fn memory_is_what_the_kernel_sees() {
        assert_eq!(memory_bytes("MemTotal:        2015204 kB\nMemFree: 1 kB\n"), Some(2_063_568_896));
        assert_eq!(memory_bytes("MemFree: 1 kB\n"), None);
    }
}

//! What is left to do of replacing a disk, told from the volumes as they are: so an order that was cut goes on when it is given
//! again. Pure.

use std::path::Path;

use super::LifeError;
use crate::disks::Disk;
use crate::volume::{REPLACING, Volume};

/// What is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacing {
    /// Volumes that lack the new disk, by the GPT name of their partitions, and the number of the device that it replaces.
    pub numbers: Vec<(&'static str, u64)>,
    /// The new disk has its partitions, and is in the other volumes already.
    pub has_begun: bool,
}

/// What is left of having `incoming` take the place of `leaving`, or of a disk that is missing. `volumes`: each with the GPT name
/// of its partitions; `all`: the disks that have a partition table.
///
/// # Errors
/// There is nothing to replace, or `incoming` is in all volumes for another reason.
pub fn replacing(
    volumes: &[(&'static str, Volume)],
    leaving: Option<&Disk>,
    incoming: &Path,
    all: &[Disk],
) -> Result<Replacing, LifeError> {
    let of_disk = |disk: &Disk, name: &str, volume: &Volume| {
        disk.partitions.get(name).and_then(|found| volume.number_of(&found.device))
    };
    let number = |(name, volume): &(&'static str, Volume)| {
        let number = match leaving {
            Some(disk) => of_disk(disk, name, volume),
            None => volume.missing().into_iter().find(|number| *number != REPLACING),
        };
        number.map(|number| (*name, number))
    };
    let numbers: Vec<(&'static str, u64)> = volumes.iter().filter_map(number).collect();
    let new = all.iter().find(|disk| disk.device == incoming);
    let is_in = |name: &str| {
        let volume = volumes.iter().find(|(of, _)| *of == name).map(|(_, volume)| volume);
        new.zip(volume).is_some_and(|(disk, volume)| of_disk(disk, name, volume).is_some())
    };
    let in_some = volumes.iter().any(|(name, _)| is_in(name));
    if numbers.iter().any(|(name, _)| is_in(name)) || (in_some && numbers.len() == volumes.len()) {
        return Err(LifeError::Unsuitable {
            disk: incoming.display().to_string(),
            reason: "is one of this machine's disks already".into(),
        });
    }
    if numbers.is_empty() && !in_some {
        return Err(LifeError::NoDisk(match leaving {
            Some(disk) => format!("{} is no disk of this machine", disk.device.display()),
            None => "no disk is missing: name the one that is replaced with --old".into(),
        }));
    }
    if numbers.len() < volumes.len() && !in_some {
        // A disk in some volumes alone would start a machine without the others.
        return Err(LifeError::NoDisk(
            "another disk has begun to take its place: name that one, which `hostd order disks` shows as in use".into(),
        ));
    }
    Ok(Replacing { numbers, has_begun: in_some })
}

/// The sizes of a volume's devices as btrfs counts them, by their numbers, from what `btrfs inspect-internal dump-tree -t chunk`
/// prints.
pub fn device_sizes(text: &str) -> Vec<(u64, u64)> {
    let size = |line: &str| {
        let mut words = line.split_whitespace();
        let mut after = |word: &str| {
            words.next().filter(|found| *found == word)?;
            words.next()?.parse::<u64>().ok()
        };
        Some((after("devid")?, after("total_bytes")?))
    };
    text.lines().filter_map(size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disks::Found;
    use crate::volume::Device;
    use std::path::PathBuf;
    use uuid::Uuid;

    fn disk(name: &str) -> Disk {
        let found = |number: u32| Found {
            device: format!("/dev/{name}{number}").into(),
            part_uuid: Uuid::from_u128(number.into()),
            size_bytes: 1 << 30,
        };
        Disk {
            device: format!("/dev/{name}").into(),
            guid: Uuid::nil(),
            size_bytes: 20 << 30,
            sector_bytes: 512,
            partitions: [("state".to_owned(), found(9)), ("data".to_owned(), found(10))].into(),
        }
    }

    /// A volume with these devices by number; `None`: missing.
    fn volume(devices: &[(u64, Option<&str>)]) -> Volume {
        let device = |(number, path): &(u64, Option<&str>)| {
            (*number, Device { path: path.map(PathBuf::from), errors: 0 })
        };
        Volume { target: "/".into(), devices: devices.iter().map(device).collect() }
    }

    fn volumes(state: &[(u64, Option<&str>)], data: &[(u64, Option<&str>)]) -> [(&'static str, Volume); 2] {
        [("state", volume(state)), ("data", volume(data))]
    }

    #[test]
    fn what_was_cut_goes_on_and_what_is_wrong_is_refused() {
        let (a, b, c) = (disk("sda"), disk("sdb"), disk("sdc"));
        let all = [a.clone(), b.clone(), c.clone()];
        let whole = volumes(
            &[(1, Some("/dev/sda9")), (2, Some("/dev/sdb9"))],
            &[(1, Some("/dev/sda10")), (2, Some("/dev/sdb10"))],
        );
        let lost = volumes(&[(1, Some("/dev/sda9")), (2, None)], &[(1, Some("/dev/sda10")), (2, None)]);
        let half =
            volumes(&[(1, Some("/dev/sda9")), (2, Some("/dev/sdc9"))], &[(1, Some("/dev/sda10")), (2, None)]);
        let done = volumes(
            &[(1, Some("/dev/sda9")), (2, Some("/dev/sdc9"))],
            &[(1, Some("/dev/sda10")), (2, Some("/dev/sdc10"))],
        );
        let half_of_b = volumes(
            &[(1, Some("/dev/sda9")), (2, Some("/dev/sdc9"))],
            &[(1, Some("/dev/sda10")), (2, Some("/dev/sdb10"))],
        );
        type Expected<'a> = Result<(&'a [(&'static str, u64)], bool), &'a str>;
        type Case<'a> = (&'a [(&'static str, Volume)], Option<&'a Disk>, &'a str, Expected<'a>);
        let table: [Case<'_>; 10] = [
            (&lost, None, "/dev/sdc", Ok((&[("state", 2), ("data", 2)], false))),
            (&half, None, "/dev/sdc", Ok((&[("data", 2)], true))),
            (&half, None, "/dev/sdb", Err("another disk has begun to take its place")),
            (&done, None, "/dev/sdc", Ok((&[], true))),
            (&whole, Some(&b), "/dev/sdc", Ok((&[("state", 2), ("data", 2)], false))),
            (&half_of_b, Some(&b), "/dev/sdc", Ok((&[("data", 2)], true))),
            (&done, Some(&b), "/dev/sdc", Ok((&[], true))),
            (&whole, None, "/dev/sdc", Err("no disk is missing")),
            (&whole, Some(&c), "/dev/sdd", Err("/dev/sdc is no disk of this machine")),
            (&lost, None, "/dev/sda", Err("is one of this machine's disks already")),
        ];
        for (number, (volumes, leaving, incoming, expected)) in table.into_iter().enumerate() {
            let found = replacing(volumes, leaving, Path::new(incoming), &all);
            match (found, expected) {
                (Ok(found), Ok((numbers, has_begun))) => {
                    assert_eq!(found, Replacing { numbers: numbers.into(), has_begun }, "case {number}");
                }
                (Err(error), Err(text)) => {
                    assert!(error.to_string().contains(text), "case {number}: {error}")
                }
                (found, expected) => panic!("case {number}: {found:?} and not {expected:?}"),
            }
        }
    }

    #[test]
    fn sizes_are_those_of_the_device_items() {
        let text = "btrfs-progs v6.14\nchunk tree\nleaf 22036480 items 4 free space 15706\n\
                    \titem 0 key (DEV_ITEMS DEV_ITEM 1) itemoff 16185 itemsize 98\n\
                    \t\tdevid 1 total_bytes 1073741824 bytes_used 549453824\n\
                    \t\tio_align 4096 io_width 4096 sector_size 4096 type 0\n\
                    \titem 1 key (DEV_ITEMS DEV_ITEM 2) itemoff 16087 itemsize 98\n\
                    \t\tdevid 2 total_bytes 2147483648 bytes_used 549453824\n\
                    \t\t\tstripe 0 devid 2 offset 1048576\n";
        assert_eq!(device_sizes(text), [(1, 1 << 30), (2, 2 << 30)]);
    }
}

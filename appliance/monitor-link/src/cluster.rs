//! PostgreSQL clusters as Debian's postgresql-common knows them.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// The PostgreSQL major that is supported (design D6).
pub const MAJOR: &str = "17";

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// PostgreSQL major, such as `17`.
    pub version: String,
    /// Name, normally `main`.
    pub name: String,
    /// TCP port and number of the socket.
    pub port: u16,
    /// Whether it runs.
    pub online: bool,
    /// Operating-system user that owns it.
    pub owner: String,
}

impl Cluster {
    /// systemd's unit of the cluster.
    pub fn unit(&self) -> String {
        format!("postgresql@{}-{}", self.version, self.name)
    }
}

/// Lists the clusters of this machine.
///
/// # Errors
/// postgresql-common is not installed or fails.
pub fn list() -> Result<Vec<Cluster>> {
    let text = run(Command::new("pg_lsclusters").arg("--no-header")).context(
        "cannot list the PostgreSQL clusters; is PostgreSQL installed from the distribution's packages?",
    )?;
    parse(&text)
}

/// Reads what `pg_lsclusters --no-header` prints: version, name, port, status, owner, data directory, log.
///
/// # Errors
/// A line is not understood.
pub fn parse(text: &str) -> Result<Vec<Cluster>> {
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let mut fields = line.split_whitespace();
            let mut field = || fields.next().with_context(|| format!("pg_lsclusters printed {line:?}"));
            let (version, name, port) = (field()?.to_owned(), field()?.to_owned(), field()?);
            let port = port.parse().with_context(|| format!("pg_lsclusters printed {line:?}"))?;
            let online = field()?.split(',').any(|word| word == "online");
            Ok(Cluster { version, name, port, online, owner: field()?.to_owned() })
        })
        .collect()
}

/// Chooses the cluster to set up: the wanted one (`17/main`), or the only one of the supported major.
///
/// # Errors
/// There is none, another major only, or several.
pub fn choose(clusters: &[Cluster], wanted: Option<&str>) -> Result<Cluster> {
    let names = |list: &[&Cluster]| {
        list.iter().map(|c| format!("{}/{}", c.version, c.name)).collect::<Vec<_>>().join(", ")
    };
    let all: Vec<_> = clusters.iter().collect();
    if all.is_empty() {
        bail!("this machine has no PostgreSQL cluster; install PostgreSQL {MAJOR} first");
    }
    if let Some(wanted) = wanted
        && !all.iter().any(|c| format!("{}/{}", c.version, c.name) == wanted)
    {
        bail!("there is no cluster {wanted}; there are: {}", names(&all));
    }
    let fitting: Vec<_> = all
        .iter()
        .copied()
        .filter(|c| wanted.is_none_or(|wanted| format!("{}/{}", c.version, c.name) == wanted))
        .filter(|c| c.version == MAJOR)
        .collect();
    match fitting.as_slice() {
        [] => bail!(
            "only PostgreSQL {MAJOR} can be backed up, this machine has: {}; upgrade with pg_upgradecluster",
            names(&all)
        ),
        [one] => Ok((*one).clone()),
        several => bail!("there are several clusters, name one with --cluster: {}", names(several)),
    }
}

/// Runs a program and returns what it printed.
///
/// # Errors
/// It cannot be run, or fails: with its own words.
pub fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(std::process::Stdio::null()).output().with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
15 main 5432 online postgres /var/lib/postgresql/15/main /var/log/postgresql/postgresql-15-main.log
17 main 5433 down postgres /var/lib/postgresql/17/main /var/log/postgresql/postgresql-17-main.log
17 zabbix 5434 online,recovery zabbix /srv/a b/main <unknown>
";

    #[test]
    fn the_list_is_understood() {
        let clusters = parse(TEXT).unwrap();
        let rows: Vec<_> = clusters.iter().map(|c| (c.unit(), c.port, c.online, c.owner.as_str())).collect();
        assert_eq!(
            rows,
            [
                ("postgresql@15-main".to_owned(), 5432, true, "postgres"),
                ("postgresql@17-main".to_owned(), 5433, false, "postgres"),
                ("postgresql@17-zabbix".to_owned(), 5434, true, "zabbix"),
            ]
        );
        assert!(parse("\n").unwrap().is_empty());
        assert!(parse("17 main x online postgres").is_err());
        assert!(parse("17 main").is_err());
    }

    #[test]
    fn the_cluster_is_chosen_or_the_way_out_is_named() {
        let clusters = parse(TEXT).unwrap();
        type Row = (&'static [usize], Option<&'static str>, Result<&'static str, &'static str>);
        let table: &[Row] = &[
            (&[0, 1], None, Ok("17/main")),
            (&[1], Some("17/main"), Ok("17/main")),
            (&[0, 1, 2], Some("17/zabbix"), Ok("17/zabbix")),
            (&[0, 1, 2], None, Err("name one with --cluster: 17/main, 17/zabbix")),
            (&[0], None, Err("only PostgreSQL 17 can be backed up, this machine has: 15/main")),
            (&[0, 1], Some("15/main"), Err("only PostgreSQL 17")),
            (&[0], Some("17/main"), Err("there is no cluster 17/main; there are: 15/main")),
            (&[], None, Err("no PostgreSQL cluster; install PostgreSQL 17")),
        ];
        for (which, wanted, expected) in table {
            let list: Vec<_> = which.iter().map(|i| clusters[*i].clone()).collect();
            match (choose(&list, *wanted), expected) {
                (Ok(c), Ok(name)) => assert_eq!(format!("{}/{}", c.version, c.name), *name),
                (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{error}"),
                (got, _) => panic!("{which:?} {wanted:?}: {got:?}"),
            }
        }
    }
}

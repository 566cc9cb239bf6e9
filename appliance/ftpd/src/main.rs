//! `ftpd`: serves the backups over FTP. Runs as user `ftpd`, without capabilities; see the library's documentation.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow};
use auth::{Ledgers, Verifier};
use clap::Parser;
use ftpd::{Config, Limits, Server};
use tracing_subscriber::EnvFilter;

/// Serves the backups over FTP with explicit TLS.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder of the backups
    #[arg(long, default_value = "/data/backups")]
    backups: PathBuf,
    /// Folder of certificate.pem and key.pem
    #[arg(long, default_value = "/var/lib/infimonitor/tls")]
    tls_dir: PathBuf,
    /// File with the password's Argon2id hash
    #[arg(long, default_value = "/var/lib/infimonitor/auth/password")]
    password_file: PathBuf,
    /// Addresses and ports to listen on, once for each
    #[arg(long, default_values_t = [
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, api::FTP_PORT)),
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, api::FTP_PORT)),
    ])]
    listen: Vec<SocketAddr>,
    /// Ports for passive data connections
    #[arg(long, default_value_t = Ports(api::FTP_PASSIVE_PORTS))]
    passive_ports: Ports,
    /// What the console has set (`hostd order ftp`)
    #[arg(long, default_value = api::FTP_SETTINGS_PATH)]
    settings: PathBuf,
    /// This process's table of failed logins, which backupd reads; left out: none is kept in a file
    #[arg(long, requires = "other_failures")]
    own_failures: Option<PathBuf>,
    /// backupd's table of failed logins
    #[arg(long, requires = "own_failures")]
    other_failures: Option<PathBuf>,
}

/// A range of ports, written FIRST-LAST.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ports(RangeInclusive<u16>);

impl FromStr for Ports {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (first, last) = text.split_once('-').ok_or_else(|| anyhow!("expected FIRST-LAST"))?;
        let (first, last) = (first.parse()?, last.parse()?);
        if first > last {
            return Err(anyhow!("{first} is greater than {last}"));
        }
        Ok(Self(first..=last))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

fn main() -> Result<()> {
    // A fixed filter: libunftp's own records would show credentials at some levels.
    auth::journal::start(EnvFilter::new("ftpd=info,auth=info"), false)?;
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow!("another TLS provider is installed"))?;
    let arguments = Arguments::parse();
    let ledgers = Ledgers::of(arguments.own_failures, arguments.other_failures);
    let verifier = Verifier::sharing(&arguments.password_file, ledgers.as_ref())?;
    let config = Config {
        backups: arguments.backups,
        certificate: arguments.tls_dir.join("certificate.pem"),
        key: arguments.tls_dir.join("key.pem"),
        password_file: arguments.password_file,
        listen: arguments.listen,
        passive_ports: arguments.passive_ports.0,
        settings: arguments.settings,
        limits: Limits::default(),
    };
    let server = Server::bind_with(config, verifier)?;
    for address in server.addresses().context("cannot tell where it listens")? {
        tracing::info!("listening on {address}");
    }
    server.run();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges_are_checked() {
        assert_eq!("30000-30009".parse::<Ports>().unwrap(), Ports(30_000..=30_009));
        for wrong in ["", "30000", "2-1", "1-65536", "a-b"] {
            assert!(wrong.parse::<Ports>().is_err(), "{wrong:?}");
        }
    }
}

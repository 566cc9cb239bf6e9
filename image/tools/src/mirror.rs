//! Which package mirror a build uses: the one that the build host already uses for Debian (decision D1), so that
//! no mirror address stands in the repository.
//!
//! Trade-off: this reads apt's two source formats itself instead of asking `apt-get indextargets`, which needs
//! fetched lists and tells the host's suites only. The host's suite is dropped; the appliance's takes its place.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// The Debian release that the appliance and the tools tree are made of (decision D1).
pub const RELEASE: &str = "trixie";

/// Keyring that every package of a build is checked against; from package debian-archive-keyring.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Overrides the mirror of Debian's main archive.
pub const ARCHIVE_VARIABLE: &str = "INFIMONITOR_MIRROR";
/// Overrides the mirror of Debian's security archive.
pub const SECURITY_VARIABLE: &str = "INFIMONITOR_SECURITY_MIRROR";

/// One source of packages as apt knows it: one URI with its suites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Base address.
    pub uri: String,
    /// Suites, such as `bookworm` or `bookworm-security`.
    pub suites: Vec<String>,
    /// Components, such as `main`.
    pub components: Vec<String>,
    /// Keyring named by the source; `None` where apt's trusted keys apply.
    pub signed_by: Option<String>,
}

/// The two archives that a build installs from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrors {
    /// Debian's main archive.
    pub archive: String,
    /// Debian's security archive.
    pub security: String,
}

impl Mirrors {
    /// The mirrors of this host: environment variables first, then apt's configuration.
    pub fn of_host() -> Result<Self> {
        let sources = host_sources(Path::new("/etc/apt"))?;
        let named = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        choose(&sources, named(ARCHIVE_VARIABLE), named(SECURITY_VARIABLE))?.resolved()
    }

    /// The sources file for apt, limited to `release` and to Debian's own keys.
    pub fn sources_file(&self, release: &str) -> String {
        let entry = |uri: &str, suites: &str| {
            format!("Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: {KEYRING}\n")
        };
        format!(
            "{}\n{}",
            entry(&self.archive, &format!("{release} {release}-updates")),
            entry(&self.security, &format!("{release}-security"))
        )
    }

    /// Replaces `mirror+file:` lists, as cloud images use them, by their first mirror: the list is not visible
    /// where mkosi runs apt.
    fn resolved(self) -> Result<Self> {
        Ok(Self { archive: resolve(self.archive)?, security: resolve(self.security)? })
    }
}

fn resolve(uri: String) -> Result<String> {
    let Some(list) = uri.strip_prefix("mirror+file:") else { return Ok(uri) };
    let path = format!("/{}", list.trim_start_matches('/'));
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read the mirror list {path}"))?;
    match first_mirror(&text) {
        Some(mirror) => Ok(mirror),
        None => bail!("the mirror list {path} names no mirror: set {ARCHIVE_VARIABLE}"),
    }
}

fn first_mirror(list: &str) -> Option<String> {
    list.lines()
        .filter_map(|line| line.split_whitespace().next())
        .find(|word| word.contains("://"))
        .map(Into::into)
}

/// Reads every source of an apt configuration folder.
fn host_sources(folder: &Path) -> Result<Vec<Source>> {
    let mut files = vec![folder.join("sources.list")];
    let parts = folder.join("sources.list.d");
    if parts.is_dir() {
        let listing = fs::read_dir(&parts).with_context(|| format!("cannot list {}", parts.display()))?;
        for entry in listing {
            files.push(entry.with_context(|| format!("cannot list {}", parts.display()))?.path());
        }
    }
    files.sort();
    let mut sources = Vec::new();
    for file in files.iter().filter(|file| file.is_file()) {
        let read = || fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()));
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(parse_one_line(&read()?)),
            Some("sources") => sources.extend(parse_deb822(&read()?)),
            _ => {} // apt ignores other names too
        }
    }
    Ok(sources)
}

/// Parses the one-line format of sources.list(5). Lines that are no binary sources are left out.
pub fn parse_one_line(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => ("", rest),
    };
    let signed_by =
        options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")).map(Into::into);
    let mut words = rest.split_whitespace().map(String::from);
    let (uri, suite) = (words.next()?, words.next()?);
    Some(Source { uri, suites: vec![suite], components: words.collect(), signed_by })
}

/// Parses the deb822 format of sources.list(5). Disabled stanzas and source packages are left out.
pub fn parse_deb822(text: &str) -> Vec<Source> {
    stanzas(text).into_iter().flat_map(sources_of_stanza).collect()
}

type Fields = Vec<(String, String)>;

fn stanzas(text: &str) -> Vec<Fields> {
    let mut all = vec![Fields::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.trim().is_empty() {
            all.push(Fields::new());
            continue;
        }
        let Some(fields) = all.last_mut() else { continue };
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    all
}

fn sources_of_stanza(fields: Fields) -> Vec<Source> {
    let value = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
    let words = |name: &str| -> Vec<String> {
        value(name).unwrap_or_default().split_whitespace().map(Into::into).collect()
    };
    let disabled = value("enabled").is_some_and(|enabled| matches!(enabled, "no" | "false" | "0"));
    if disabled || !words("types").iter().any(|kind| kind == "deb") {
        return Vec::new();
    }
    let source = |uri| Source {
        uri,
        suites: words("suites"),
        components: words("components"),
        signed_by: value("signed-by").map(Into::into),
    };
    words("uris").into_iter().map(source).collect()
}

/// Picks the two archives from a host's sources; the overrides win.
///
/// A source counts as Debian's own when it has component `main`, a suite of Debian's names, and no foreign
/// keyring: third parties reuse Debian's suite names for their repositories.
pub fn choose(sources: &[Source], archive: Option<String>, security: Option<String>) -> Result<Mirrors> {
    let of_kind = |wanted: fn(&str) -> bool| {
        sources
            .iter()
            .filter(|source| is_debians(source) && source.suites.iter().any(|suite| wanted(suite)))
            .map(|source| source.uri.trim_end_matches('/').to_owned())
            .next()
    };
    let Some(archive) = archive.or_else(|| of_kind(is_main_suite)) else {
        bail!(
            "apt on this host has no source of Debian's main archive: set {ARCHIVE_VARIABLE} and \
             {SECURITY_VARIABLE} to mirrors that carry {RELEASE} and {RELEASE}-security"
        )
    };
    let Some(security) = security.or_else(|| of_kind(is_security_suite)) else {
        bail!(
            "apt on this host has no source of Debian's security archive: set {SECURITY_VARIABLE} to a mirror \
             that carries {RELEASE}-security"
        )
    };
    Ok(Mirrors { archive, security })
}

fn is_debians(source: &Source) -> bool {
    let own_key = source.signed_by.as_ref().is_none_or(|key| key.contains("debian-archive"));
    let reachable = !source.uri.starts_with("cdrom:");
    let named =
        source.uri.trim_end_matches('/').rsplit('/').next().is_some_and(|name| name.contains("debian"));
    own_key && reachable && named && source.components.iter().any(|component| component == "main")
}

/// Debian's releases from the first that this build could run on, and the names that move.
const SUITES: [&str; 9] =
    ["bullseye", "bookworm", "trixie", "forky", "duke", "oldstable", "stable", "testing", "unstable"];

fn is_main_suite(suite: &str) -> bool {
    suite == "sid" || SUITES.contains(&suite)
}

fn is_security_suite(suite: &str) -> bool {
    suite.strip_suffix("-security").is_some_and(is_main_suite)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian
# http://elsewhere.example
Suites: bookworm bookworm-updates
Components: main
 contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: bookworm
Components: main
";

    fn mirrors(archive: &str, security: &str) -> Mirrors {
        Mirrors { archive: archive.into(), security: security.into() }
    }

    #[test]
    fn deb822_stanzas_are_read_with_continuation_lines_and_without_disabled_ones() {
        let sources = parse_deb822(DEB822);
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[0].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(sources[0].components, ["main", "contrib"]);
        let found = choose(&sources, None, None).unwrap();
        assert_eq!(found, mirrors("http://mirror.example/debian", "http://mirror.example/debian-security"));
    }

    #[test]
    fn one_line_sources_are_read_with_options_and_comments() {
        let cases = [
            ("deb http://m/debian bookworm main # c", Some(("http://m/debian", None))),
            (
                "deb [arch=amd64 signed-by=/k.gpg] http://m/debian bookworm main",
                Some(("http://m/debian", Some("/k.gpg"))),
            ),
            ("deb\thttp://m/debian\tsid\tmain", Some(("http://m/debian", None))),
            ("deb-src http://m/debian bookworm main", None),
            ("# deb http://m/debian bookworm main", None),
            ("deb http://m/debian", None),
            ("", None),
        ];
        for (line, expected) in cases {
            let source = parse_one_line(line).pop();
            let found = source.as_ref().map(|source| (source.uri.as_str(), source.signed_by.as_deref()));
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn third_party_sources_are_never_taken_for_debians() {
        let text = "\
deb [signed-by=/usr/share/keyrings/other.gpg] http://third.example/debian bookworm main
deb http://apt.example/pub bookworm main
deb cdrom:[Debian]/debian bookworm main
deb http://apt.example/debian bookworm-pgdg main
deb http://apt.example/debian bookworm contrib
deb http://mirror.example/debian/ bookworm main
deb http://mirror.example/debian-security bookworm-security main
";
        let found = choose(&parse_one_line(text), None, None).unwrap();
        assert_eq!(found, mirrors("http://mirror.example/debian", "http://mirror.example/debian-security"));
    }

    #[test]
    fn overrides_win_and_a_missing_archive_names_the_variable() {
        let set = |value: &str| Some(value.to_owned());
        let sources = parse_deb822(DEB822);
        let found = choose(&sources, set("http://a/debian"), None).unwrap();
        assert_eq!(found, mirrors("http://a/debian", "http://mirror.example/debian-security"));
        assert_eq!(choose(&[], set("http://a"), set("http://s")).unwrap(), mirrors("http://a", "http://s"));
        let message = choose(&[], set("http://a"), None).unwrap_err().to_string();
        assert!(message.contains(SECURITY_VARIABLE), "{message}");
        let message = choose(&[], None, None).unwrap_err().to_string();
        assert!(message.contains(ARCHIVE_VARIABLE), "{message}");
    }

    #[test]
    fn a_mirror_list_gives_its_first_mirror() {
        assert_eq!(
            first_mirror("# list\nhttps://m/debian priority:1\n").as_deref(),
            Some("https://m/debian")
        );
        assert_eq!(first_mirror("# none\n"), None);
    }

    #[test]
    fn the_sources_file_has_the_appliances_release_and_no_debug_archive() {
        let text = mirrors("http://a/debian", "http://s/debian-security").sources_file("trixie");
        let sources = parse_deb822(&text);
        assert_eq!(sources[0].suites, ["trixie", "trixie-updates"]);
        assert_eq!(sources[1].suites, ["trixie-security"]);
        assert!(sources.iter().all(|source| source.signed_by.as_deref() == Some(KEYRING)));
    }
}

//! An image's packages against Debian's security tracker. Pure.
//!
//! The tracker goes by source packages, the image's list by binary ones: the mirror's lists tell which source a binary is made
//! of. Kernel and boot loader are signed in sources of their own, which the tracker does not know: they count as what was
//! signed.

use serde::Deserialize;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::version;

/// mkosi's package list.
#[derive(Debug, Deserialize)]
pub struct Manifest {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
}

/// Source and its version, by binary package and version.
pub type Sources = BTreeMap<(String, String), (String, String)>;

/// The tracker: issues by source and by number.
pub type Tracker = BTreeMap<String, BTreeMap<String, Issue>>;

/// One issue.
#[derive(Debug, Deserialize)]
pub struct Issue {
    #[serde(default)]
    releases: BTreeMap<String, Standing>,
}

/// How an issue stands in a release.
#[derive(Debug, Deserialize)]
struct Standing {
    status: String,
    #[serde(default)]
    fixed_version: Option<String>,
    #[serde(default)]
    urgency: Option<String>,
    /// Why it gets no advisory of its own; such ones wait for the next point release.
    #[serde(default)]
    nodsa: Option<String>,
}

/// An issue that an image has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where Debian has mended it; `None`: nowhere yet.
    pub fixed_in: Option<String>,
    source: String,
    version: String,
    issue: String,
}

/// Adds what a mirror's list (`Packages`) says.
pub fn add_sources(sources: &mut Sources, list: &str) {
    for stanza in list.split("\n\n") {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let (Some(package), Some(version)) = (field("Package"), field("Version")) else { continue };
        let source = field("Source").map_or_else(
            || (package.to_owned(), without_rebuild(version).to_owned()),
            |source| match source.split_once(" (") {
                Some((name, of)) => (name.to_owned(), of.trim_end_matches(')').to_owned()),
                None => (source.to_owned(), without_rebuild(version).to_owned()),
            },
        );
        sources.insert((package.to_owned(), version.to_owned()), source);
    }
}

/// A version without the mark of a rebuild of the same source (`+b1`).
fn without_rebuild(version: &str) -> &str {
    match version.rsplit_once("+b") {
        Some((source, number)) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => {
            source
        }
        _ => version,
    }
}

/// The source as the tracker knows it: of what is signed.
fn tracked(source: &str, version: &str) -> (String, String) {
    let unsigned = |version: &str| match version.rsplit_once('+') {
        Some((upstream, revision)) => format!("{upstream}-{revision}"),
        None => version.to_owned(),
    };
    match source {
        // 6.12.48+1 is 6.12.48-1.
        "linux-signed-amd64" => ("linux".into(), unsigned(version)),
        // 1+2.12+9 is 2.12-9.
        "grub-efi-amd64-signed" => {
            ("grub2".into(), unsigned(version.split_once('+').map_or(version, |(_, signed)| signed)))
        }
        other => (other.into(), version.into()),
    }
}

/// What the tracker knows against the packages: first what Debian has mended.
pub fn compare(manifest: &Manifest, sources: &Sources, tracker: &Tracker, release: &str) -> Vec<Finding> {
    let source_of = |package: &Package| {
        let exact = sources.get(&(package.name.clone(), package.version.clone()));
        // The list may be newer than the image: the name of the source stays.
        let (name, version) = exact.cloned().unwrap_or_else(|| {
            let same = sources.range((package.name.clone(), String::new())..).next();
            let name =
                same.filter(|((found, _), _)| *found == package.name).map(|(_, (source, _))| source.clone());
            (name.unwrap_or_else(|| package.name.clone()), without_rebuild(&package.version).to_owned())
        });
        tracked(&name, &version)
    };
    let of_image: BTreeSet<(String, String)> = manifest.packages.iter().map(source_of).collect();
    let mut findings = BTreeSet::new();
    for (source, version) in of_image {
        for (issue, known) in tracker.get(&source).into_iter().flatten() {
            let Some(standing) = known.releases.get(release) else { continue };
            if let Some(fixed_in) = standing.against(&version) {
                let (source, version, issue) = (source.clone(), version.clone(), issue.clone());
                findings.insert((fixed_in.is_none(), Finding { fixed_in, source, version, issue }));
            }
        }
    }
    findings.into_iter().map(|(_, finding)| finding).collect()
}

impl Standing {
    /// Whether it stands against a version, and then where it is mended.
    #[allow(clippy::option_option)] // Not mended is another answer than not affected.
    fn against(&self, installed: &str) -> Option<Option<String>> {
        match (self.status.as_str(), &self.fixed_version) {
            // 0: the release was never affected.
            ("resolved", Some(fixed)) if fixed != "0" => {
                (version::compare(installed, fixed) == Ordering::Less).then(|| Some(fixed.clone()))
            }
            ("open", _) => {
                let matters = self.urgency.as_deref() != Some("unimportant") && self.nodsa.is_none();
                matters.then_some(None)
            }
            _ => None,
        }
    }
}

/// Findings for people: a line each of what is mended, numbers of the rest.
pub fn report(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings.iter().filter(|finding| finding.fixed_in.is_some()) {
        let Finding { source, version, issue, fixed_in } = finding;
        let fixed = fixed_in.as_deref().unwrap_or_default();
        text += &format!("{issue}: {source} {version}, mended in {fixed}\n");
    }
    let mut open: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for finding in findings.iter().filter(|finding| finding.fixed_in.is_none()) {
        open.entry(&finding.source).or_default().push(&finding.issue);
    }
    for (source, issues) in &open {
        text += &format!("not mended by Debian yet: {source}: {}\n", issues.join(", "));
    }
    let mended = findings.len() - open.values().map(Vec::len).sum::<usize>();
    text + &format!(
        "Debian's security tracker: {mended} issues of this image are mended in newer packages, {} are open\n",
        findings.len() - mended
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTS: &str = "Package: libssl3t64\nSource: openssl\nVersion: 3.5.1-1\n\n\
        Package: libc-bin\nSource: glibc (2.41-12)\nVersion: 2.41-12+b1\nDescription: x\n more\n\n\
        Package: nftables\nVersion: 1.1.3-1+b2\n\n\
        Package: linux-image-6.12.48+deb13-amd64\nSource: linux-signed-amd64 (6.12.48+1)\nVersion: 6.12.48-1\n\n\
        Package: grub-efi-amd64-signed\nVersion: 1+2.12+9\n";
    const LIST: &str = r#"{"manifest_version": 1, "packages": [
        {"type": "deb", "name": "libssl3t64", "version": "3.5.1-1", "architecture": "amd64"},
        {"type": "deb", "name": "libc-bin", "version": "2.41-12+b1"},
        {"type": "deb", "name": "nftables", "version": "1.1.3-0+b9"},
        {"type": "deb", "name": "linux-image-6.12.48+deb13-amd64", "version": "6.12.48-1"},
        {"type": "deb", "name": "grub-efi-amd64-signed", "version": "1+2.12+9"},
        {"type": "deb", "name": "unknown", "version": "1"}]}"#;
    const TRACKER: &str = r#"{
        "openssl": {
            "CVE-1": {"scope": "remote", "releases": {"trixie":
                {"status": "resolved", "repositories": {"trixie": "3.5.1-1"}, "fixed_version": "3.5.1-1+deb13u1", "urgency": "high"}}},
            "CVE-2": {"releases": {"trixie": {"status": "resolved", "fixed_version": "3.5.1-1"}}},
            "CVE-3": {"releases": {"trixie": {"status": "resolved", "fixed_version": "0"}}},
            "CVE-4": {"releases": {"bookworm": {"status": "open"}}}},
        "glibc": {
            "CVE-5": {"releases": {"trixie": {"status": "open", "urgency": "not yet assigned"}}},
            "CVE-6": {"releases": {"trixie": {"status": "open", "urgency": "unimportant"}}},
            "CVE-7": {"releases": {"trixie": {"status": "open", "nodsa": "Minor issue", "nodsa_reason": ""}}}},
        "nftables": {"CVE-8": {"releases": {"trixie": {"status": "resolved", "fixed_version": "1.1.3-1"}}}},
        "linux": {
            "CVE-9": {"releases": {"trixie": {"status": "resolved", "fixed_version": "6.12.57-1"}}},
            "CVE-10": {"releases": {"trixie": {"status": "resolved", "fixed_version": "6.12.48-1"}}}},
        "grub2": {"CVE-11": {"releases": {"trixie": {"status": "undetermined"}}},
                  "CVE-12": {"releases": {"trixie": {"status": "resolved", "fixed_version": "2.12-9+deb13u1"}}}},
        "elsewhere": {"CVE-13": {"releases": {"trixie": {"status": "open"}}}}}"#;

    fn findings() -> Vec<Finding> {
        let mut sources = Sources::new();
        add_sources(&mut sources, LISTS);
        let manifest = serde_json::from_str(LIST).unwrap();
        compare(&manifest, &sources, &serde_json::from_str(TRACKER).unwrap(), "trixie")
    }

    #[test]
    fn what_debian_has_mended_and_what_is_open_is_told_apart() {
        let found: Vec<_> = findings().into_iter().map(|found| (found.issue, found.fixed_in)).collect();
        let mended = |issue: &str, fixed: &str| (issue.to_owned(), Some(fixed.to_owned()));
        let expected = [
            mended("CVE-8", "1.1.3-1"),
            mended("CVE-12", "2.12-9+deb13u1"),
            mended("CVE-1", "3.5.1-1+deb13u1"),
            mended("CVE-9", "6.12.57-1"),
            ("CVE-5".to_owned(), None),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_report_names_each_that_is_mended_and_counts() {
        let text = report(&findings());
        assert!(text.contains("CVE-1: openssl 3.5.1-1, mended in 3.5.1-1+deb13u1\n"), "{text}");
        assert!(text.contains("CVE-9: linux 6.12.48-1, mended in 6.12.57-1\n"), "{text}");
        assert!(text.contains("not mended by Debian yet: glibc: CVE-5\n"), "{text}");
        assert!(
            text.ends_with("4 issues of this image are mended in newer packages, 1 are open\n"),
            "{text}"
        );
        assert!(report(&[]).starts_with("Debian's security tracker: 0 issues"));
    }

    #[test]
    fn a_rebuild_is_of_the_same_source() {
        for (version, source) in
            [("1.0-1+b1", "1.0-1"), ("1.0-1+deb13u1", "1.0-1+deb13u1"), ("1.0+beta", "1.0+beta")]
        {
            assert_eq!(without_rebuild(version), source);
        }
    }
}

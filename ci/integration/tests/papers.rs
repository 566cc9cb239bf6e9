//! The documents follow the code: links lead somewhere, files and items that the code map names exist, and what
//! comments call a decision has an entry.
//!
//! Each failure names the document to correct.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The most lines of the README.
const README_LINES: usize = 120;
/// The most lines of a page about the architecture.
const PAGE_LINES: usize = 400;
/// Folders of the checkout that hold no document and no code of ours.
const SKIPPED: [&str; 5] = [".git", "target", "dist", ".build", "node_modules"];
/// Endings of files whose comments may name a decision.
const COMMENTED: [&str; 8] = ["rs", "md", "toml", "conf", "cfg", "yaml", "service", "sh"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All files of the checkout, relative to its root.
fn files() -> Vec<PathBuf> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(root.join(&folder)) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let path = folder.join(&name);
            match entry.file_type() {
                Ok(_) if SKIPPED.iter().any(|skipped| name == *skipped) => {}
                Ok(kind) if kind.is_dir() => folders.push(path),
                Ok(kind) if kind.is_file() => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

fn text(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_default()
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    path.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| endings.contains(&ending))
}

fn documents() -> Vec<PathBuf> {
    files().into_iter().filter(|path| has_ending(path, &["md"])).collect()
}

/// The text without fenced blocks: those show commands and documents, not links and names.
fn without_blocks(text: &str) -> String {
    let mut is_block = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
        } else if !is_block {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// Targets of links, `[text](target)`, outside of code spans.
fn links(text: &str) -> Vec<String> {
    let text = without_blocks(text);
    let outside: String = text.split('`').step_by(2).collect::<Vec<_>>().join("`");
    let targets = outside.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).collect()
}

/// Code spans.
fn spans(text: &str) -> Vec<String> {
    without_blocks(text).split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    without_blocks(text).lines().filter(|line| line.starts_with('#')).map(anchor).collect()
}

/// `a/{b,c}.rs` is `a/b.rs` and `a/c.rs`.
fn spread(span: &str) -> Vec<String> {
    let parts = span.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)));
    match parts {
        Some((before, (inside, after))) => {
            inside.split(',').map(|part| format!("{before}{part}{after}")).collect()
        }
        None => vec![span.to_owned()],
    }
}

/// Whether `word` stands in `text` by itself.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// What is wrong with a code span that names a file of the repository; `None`: nothing, or it names none.
fn wrong_path(span: &str, top: &BTreeSet<String>) -> Option<String> {
    let (path, item) = span.split_once("::").map_or((span, None), |(path, item)| (path, Some(item)));
    let first = path.split('/').next().unwrap_or_default();
    let is_of_ours = path.contains('/') && top.contains(first);
    if !is_of_ours || path.contains(|letter: char| letter.is_whitespace() || "*<>…".contains(letter)) {
        return None;
    }
    let place = root().join(path);
    if !place.exists() {
        return Some(format!("`{path}` does not exist"));
    }
    let item = item?;
    let is_there = has_word(&fs::read_to_string(place).unwrap_or_default(), item);
    (!is_there).then(|| format!("`{path}` has no `{item}`"))
}

/// Folders and files at the top of the checkout that are ours.
fn top() -> BTreeSet<String> {
    let names = files()
        .into_iter()
        .filter_map(|path| Some(path.components().next()?.as_os_str().to_str()?.to_owned()));
    names.collect()
}

/// The numbers behind `word` in `text`: `design D7, D9` gives D7 and D9.
fn named(text: &str, word: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(word) {
        let mut rest = &text[at + word.len()..];
        while let Some(digits) = rest.strip_prefix('D') {
            let end = digits.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(digits.len());
            if end == 0 {
                break;
            }
            found.push(format!("D{}", &digits[..end]));
            rest = digits[end..].strip_prefix(", ").unwrap_or_default();
        }
        if let Some(number) = rest.strip_prefix("section ") {
            let end = number.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(number.len());
            if end > 0 {
                found.push(format!("Section {}", &number[..end]));
            }
        }
    }
    found
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let mut wrong = Vec::new();
    for document in documents() {
        let own = text(&document);
        for link in links(&own) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let place = match file {
                "" => root().join(&document),
                file => root().join(document.parent().unwrap_or(Path::new(""))).join(file),
            };
            if !place.exists() {
                wrong.push(format!("{}: {link} leads nowhere", document.display()));
            } else if !heading.is_empty() {
                let target = fs::read_to_string(&place).unwrap_or_default();
                if !anchors(&target).contains(heading) {
                    wrong.push(format!("{}: {link}: no such heading", document.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "correct these documents:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_and_item_that_the_documents_name_exists() {
    let top = top();
    let mut wrong = Vec::new();
    for document in documents() {
        for span in spans(&text(&document)).iter().flat_map(|span| spread(span)) {
            if let Some(problem) = wrong_path(&span, &top) {
                wrong.push(format!("{}: {problem}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "correct these documents:\n{}", wrong.join("\n"));
}

#[test]
fn every_decision_that_a_comment_names_has_an_entry() {
    let decisions = text(Path::new("docs/decisions.md"));
    let headings: Vec<&str> = decisions.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let is_there = |name: &str| {
        headings.iter().any(|heading| {
            heading.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '.']) || rest.is_empty())
        })
    };
    let own = Path::new("ci/integration/tests/papers.rs");
    let mut wrong = Vec::new();
    for file in files().into_iter().filter(|path| has_ending(path, &COMMENTED) && path != own) {
        let text = text(&file);
        for name in ["design ", "decision "].iter().flat_map(|word| named(&text, word)) {
            if !is_there(&name) {
                wrong.push(format!("{}: {name} is not in docs/decisions.md", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "add these entries, or correct the comments:\n{}", wrong.join("\n"));
}

#[test]
fn every_check_has_a_row_in_the_guide() {
    let guide = text(Path::new("docs/guide/protect.md"));
    let chapter = guide.split("\n## ").find(|chapter| chapter.starts_with("Checks\n")).unwrap_or_default();
    let rows = chapter.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let told: BTreeSet<String> = rows.map(|(name, _)| name.to_owned()).collect();
    let mut known = BTreeSet::new();
    for file in files() {
        let is_of_backupd = file.components().any(|part| part.as_os_str() == "backupd");
        if !is_of_backupd || !has_ending(&file, &["rs"]) {
            continue;
        }
        for rest in text(&file).split("name: \"").skip(1) {
            known.extend(
                rest.split_once("\".into()")
                    .map(|(name, _)| name.to_owned())
                    .filter(|name| name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '-')),
            );
        }
    }
    assert!(!known.is_empty(), "no check was found in the code of backupd: correct this test");
    let untold: Vec<_> = known.difference(&told).collect();
    let unknown: Vec<_> = told.difference(&known).collect();
    assert!(
        untold.is_empty() && unknown.is_empty(),
        "docs/guide/protect.md, \"Checks\": missing {untold:?}, not in the code {unknown:?}"
    );
}

#[test]
fn pages_have_a_length_that_is_read() {
    let lines = text(Path::new("README.md")).lines().count();
    assert!(
        lines <= README_LINES,
        "README.md has {lines} lines; move what is beyond {README_LINES} to docs/"
    );
    for page in documents().iter().filter(|page| page.starts_with("docs/architecture")) {
        let lines = text(page).lines().count();
        assert!(lines <= PAGE_LINES, "{} has {lines} lines; split it by subject", page.display());
    }
}

#[test]
fn spans_and_links_are_told_apart() {
    let page = "# One two: `three`\n[a](b.md#c), `x/{y,z}.rs`, `[no](link)`\n```sh\n[no](either)\n```\n";
    assert_eq!(links(page), ["b.md#c"]);
    assert_eq!(spans(page), ["three", "x/{y,z}.rs", "[no](link)"]);
    assert_eq!(spread("x/{y,z}.rs"), ["x/y.rs", "x/z.rs"]);
    assert_eq!(anchors(page).into_iter().collect::<Vec<_>>(), ["one-two-three"]);
    assert_eq!(named("(design D7, D9), design section 5.", "design "), ["D7", "D9", "Section 5"]);
    assert!(has_word("fn choose(", "choose") && !has_word("fn choose_slot(", "choose"));
}

//! `cargo xtask verify-artifact`: what a hypervisor would refuse of a package, our own or anybody's.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use media::verify::{RULES, Weight, verify};
use serde::Serialize;

use crate::paths;

/// Arguments of the command.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Say of an OVA, VMDK, VHDX, VHD, XVA or ISO what a hypervisor would refuse, and why.\n\n\
        The file's kind is told by its content. Nothing is changed. Each finding has the rule, what was found, and the \
        source of the rule.",
    after_help = "Exit status: 0 nothing would be refused (advice may be given), 1 something would, or a file cannot be looked at, \
                  2 wrong arguments"
)]
pub struct Options {
    /// The files
    #[arg(required_unless_present = "rules")]
    files: Vec<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Print all rules with their sources
    #[arg(long, conflicts_with = "files")]
    rules: bool,
}

#[derive(Serialize)]
struct Document {
    file: PathBuf,
    #[serde(flatten)]
    answer: Answer,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Looked { kind: String, findings: Vec<Finding> },
    Failed { error: String },
}

#[derive(Serialize)]
struct Listed {
    rule: &'static str,
    refused: bool,
    text: &'static str,
    source: &'static str,
}

#[derive(Serialize)]
struct Finding {
    rule: &'static str,
    refused: bool,
    found: String,
    text: &'static str,
    source: &'static str,
}

/// Prints all rules.
fn rules(json: bool) -> Result<()> {
    if !json {
        for rule in RULES {
            println!("{} {}: {}. Source: {}", rule.weight, rule.id, rule.text, rule.source);
        }
        return Ok(());
    }
    let listed = |rule: &&media::verify::Rule| Listed {
        rule: rule.id,
        refused: rule.weight == Weight::Refused,
        text: rule.text,
        source: rule.source,
    };
    let listed: Vec<Listed> = RULES.iter().map(listed).collect();
    println!("{}", serde_json::to_string_pretty(&listed).context("cannot print the rules")?);
    Ok(())
}

/// Runs the command.
pub fn run(options: &Options) -> Result<()> {
    if options.rules {
        return rules(options.json);
    }
    let (mut documents, mut refused, mut unread) = (Vec::new(), 0, 0);
    for file in &options.files {
        let report = match verify(file) {
            Ok(report) => report,
            Err(error) => {
                // The others are looked at all the same.
                eprintln!("error: {error}");
                unread += 1;
                documents.push(Document {
                    file: file.clone(),
                    answer: Answer::Failed { error: error.to_string() },
                });
                continue;
            }
        };
        if !options.json {
            let shown = paths::shown(file);
            match report.findings.as_slice() {
                [] => println!("{shown}: {}, nothing that is known stands against its import", report.kind),
                findings => {
                    println!("{shown}: {}", report.kind);
                    findings.iter().for_each(|finding| println!("  {finding}"));
                }
            }
        }
        refused += usize::from(report.findings.iter().any(|finding| finding.rule.weight == Weight::Refused));
        let finding = |finding: media::verify::Finding| Finding {
            rule: finding.rule.id,
            refused: finding.rule.weight == Weight::Refused,
            found: finding.detail,
            text: finding.rule.text,
            source: finding.rule.source,
        };
        let findings = report.findings.into_iter().map(finding).collect();
        let answer = Answer::Looked { kind: report.kind.to_string(), findings };
        documents.push(Document { file: file.clone(), answer });
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&documents).context("cannot print the findings")?);
    }
    match (refused, unread) {
        (0, 0) => Ok(()),
        _ => bail!(
            "of {} files {refused} would be refused, and {unread} cannot be looked at",
            options.files.len()
        ),
    }
}

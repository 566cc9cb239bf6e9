//! What the console says of the machine's disks: how they are, and, while something is done with them, how much of it and how
//! long it still takes.

use hostd::{Disks, Scrub};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use storage::smart::Health;

/// Parts in which what is done is counted: a tenth of a percent each, for what takes hours.
const ALL: u64 = 1000;

/// Tells steps and their progress: a bar on a terminal, and lines elsewhere.
#[derive(Debug)]
pub struct Teller {
    bar: ProgressBar,
    step: String,
    percent: u64,
}

impl Teller {
    /// Has told nothing yet.
    pub fn new() -> Self {
        // A serial line is slow, and has 80 columns.
        let bar = ProgressBar::with_draw_target(Some(ALL), ProgressDrawTarget::stdout_with_hz(2));
        let bar = match ProgressStyle::with_template("  {bar:30} {percent:>3} %, {elapsed} gone{msg}") {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
        Self { bar, step: String::new(), percent: 0 }
    }

    /// Tells that this is done, and how much of it, in percent.
    pub fn tell(&mut self, step: &str, percent: Option<f32>) {
        if self.step != step {
            self.end();
            println!("{step} …");
            self.step = step.to_owned();
            self.bar.reset();
            self.bar.set_message("");
        }
        let Some(percent) = percent else { return };
        self.bar.set_position((f64::from(percent) * ALL as f64 / 100.0) as u64);
        let whole = percent as u64;
        // Before anything is done nobody knows.
        let left =
            if whole == 0 { String::new() } else { format!(", {} left", HumanDuration(self.bar.eta())) };
        if self.bar.is_hidden() && whole > self.percent {
            println!("  {whole} %{left}");
        }
        self.bar.set_message(left);
        self.percent = whole;
    }

    /// Takes the bar away: something else is written.
    pub fn end(&mut self) {
        self.bar.finish_and_clear();
        self.percent = 0;
    }
}

/// Shows how the disks are.
pub fn show(Disks { report, scrub, under_way, .. }: &Disks) {
    for disk in &report.used {
        let errors = if disk.errors == 0 { String::new() } else { format!(", {} errors", disk.errors) };
        let health = match (&disk.raid_controller, disk.health) {
            (Some(driver), _) => format!(", the disks behind {driver} are not visible here"),
            (None, Health::Passed) => ", SMART: passed".into(),
            (None, Health::Failing) => ", SMART: it fails soon".into(),
            (None, Health::NotVisible) => String::new(),
        };
        println!("in use: {}{errors}{health}", disk.title);
    }
    if report.missing > 0 {
        let lost = if report.lost.is_empty() {
            format!("{}, whose names are not on record", report.missing)
        } else {
            report.lost.join("; ")
        };
        println!("missing: {lost} (as it was called then)");
    }
    if !report.unsettled.is_empty() {
        println!(
            "not kept yet as the disks allow: {}; `hostd order balance-disks`",
            report.unsettled.join(", ")
        );
    }
    for disk in &report.others {
        let holds = match disk.contents.as_slice() {
            [] => "blank".to_owned(),
            some => format!("holds {}", some.join(", ")),
        };
        match &disk.hindrance {
            None => println!("could come in: {}, {holds}", disk.title),
            Some(hindrance) => println!("cannot come in: {}, {holds}; it {hindrance}", disk.title),
        }
    }
    match scrub {
        None => println!("never scrubbed"),
        Some(scrub) => println!("scrubbed at {:.0}: {}", scrub.at, scrubbed(scrub)),
    }
    if let Some(step) = under_way {
        println!("now: {step}");
    }
}

/// What a scrub found, as a sentence's part.
pub fn scrubbed(Scrub { found, .. }: &Scrub) -> String {
    match (found.corrected, found.uncorrectable) {
        (0, 0) => "nothing was wrong".into(),
        (mended, 0) => format!("{mended} blocks were wrong, and are mended"),
        (mended, lost) => format!("{mended} blocks were wrong and are mended, {lost} cannot be mended"),
    }
}

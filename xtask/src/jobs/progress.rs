//! What a user sees of a running build: a line per running job, and a line for each that is done.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The lines of all running jobs.
pub struct Progress {
    bars: MultiProgress,
    live: bool,
}

impl Progress {
    /// Live lines on a terminal, plain ones elsewhere.
    pub fn new() -> Self {
        let bars = MultiProgress::new();
        let live = !bars.is_hidden();
        Self { bars, live }
    }

    /// A job began.
    pub fn begin(&self, name: &str) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message(name.to_owned());
        if self.live {
            bar.enable_steady_tick(Duration::from_millis(120));
        } else {
            self.say(&format!("{name} …"));
        }
        bar
    }

    /// A job ended; `line` says how.
    pub fn end(&self, bar: &ProgressBar, line: &str) {
        bar.finish_and_clear();
        self.bars.remove(bar);
        self.say(line);
    }

    fn say(&self, line: &str) {
        if self.bars.println(line).is_err() || !self.live {
            eprintln!("{line}");
        }
    }
}

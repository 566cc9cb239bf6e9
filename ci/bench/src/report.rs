//! What was measured, as a table of medians with their spread and the ratio to a reference, and as JSON.

use serde::Serialize;

/// Values of one thing, in one unit.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    /// What was measured.
    pub name: String,
    /// Unit of the values.
    pub unit: &'static str,
    /// Each run.
    pub values: Vec<f64>,
    /// Why there are none.
    pub problem: Option<String>,
}

impl Series {
    /// A measured one.
    pub fn new(name: &str, unit: &'static str, values: Vec<f64>) -> Self {
        Self { name: name.into(), unit, values, problem: None }
    }

    /// From runs that may have failed: the first failure is the problem, and what was measured before it counts.
    pub fn of(name: &str, unit: &'static str, runs: impl IntoIterator<Item = anyhow::Result<f64>>) -> Self {
        let mut series = Self::new(name, unit, Vec::new());
        for run in runs {
            match run {
                Ok(value) => series.values.push(value),
                Err(error) => {
                    series.problem = Some(format!("{error:#}"));
                    break;
                }
            }
        }
        series
    }

    /// The middle value; `None` of nothing.
    pub fn median(&self) -> Option<f64> {
        self.percentile(0.5)
    }

    /// The value below which the share `part` of all lies; `None` of nothing.
    pub fn percentile(&self, part: f64) -> Option<f64> {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = part * last as f64;
        let (low, high) = (sorted.get(at.floor() as usize)?, sorted.get(at.ceil() as usize)?);
        Some(low + (high - low) * at.fract())
    }

    fn spread(&self) -> Option<(f64, f64)> {
        Some((self.percentile(0.0)?, self.percentile(1.0)?))
    }
}

/// A comparison: each series against the first.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// What is compared, under which conditions.
    pub title: String,
    /// The reference first.
    pub series: Vec<Series>,
}

impl Comparison {
    /// The table, as people read it.
    pub fn table(&self) -> String {
        let reference = self.series.first().and_then(Series::median);
        let mut text = format!("{}\n", self.title);
        for series in &self.series {
            let line = match (series.median(), series.spread()) {
                (Some(median), Some((least, most))) => {
                    let ratio = reference.map_or(f64::NAN, |reference| median / reference);
                    format!(
                        "  {:<34} {median:>11.3} {:<4} [{least:.3} … {most:.3}, {} runs]  {ratio:.2} ×",
                        series.name,
                        series.unit,
                        series.values.len()
                    )
                }
                _ => format!("  {:<34} not measured", series.name),
            };
            text += &line;
            if let Some(problem) = &series.problem {
                text += &format!("  ({problem})");
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios_are_of_what_was_measured() {
        let series = Series::new("a", "s", vec![3.0, 1.0, 2.0]);
        assert_eq!(series.median(), Some(2.0));
        assert_eq!(series.percentile(0.75), Some(2.5));
        assert_eq!(Series::new("a", "s", vec![]).median(), None);
        let failing = Series::of("b", "s", [Ok(4.0), Err(anyhow::anyhow!("no room")), Ok(9.0)]);
        assert_eq!(
            (failing.values.as_slice(), failing.problem.as_deref()),
            ([4.0].as_slice(), Some("no room"))
        );
        let table = Comparison { title: "t".into(), series: vec![series, failing] }.table();
        assert!(table.contains("2.00 ×") && table.contains("(no room)"), "{table}");
    }
}

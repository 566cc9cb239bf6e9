//! What every page consists of.

use ratatui::Frame;
use ratatui::crossterm::event::KeyCode;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Gauge, Paragraph, Wrap};

/// Longest text that is typed, in characters.
const INPUT_MAX: usize = 253;

/// A typed secret, which no debug output shows.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Typed(pub String);

impl std::fmt::Debug for Typed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Typed(…)")
    }
}

impl Typed {
    /// As many dots as it has characters.
    pub fn dots(&self) -> String {
        "•".repeat(self.0.chars().count())
    }
}

/// What a key does to a text that is typed.
pub fn edit(text: &mut String, key: KeyCode) {
    match key {
        KeyCode::Char(typed) if text.chars().count() < INPUT_MAX && !typed.is_control() => text.push(typed),
        KeyCode::Backspace => drop(text.pop()),
        _ => {}
    }
}

/// A text in lines of so many characters at most, broken between words where that goes. Blanks that have no room at a line's end
/// are left out.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let (mut lines, mut line, mut used) = (Vec::new(), String::new(), 0);
    for word in text.split_inclusive(' ') {
        let length = word.trim_end().chars().count();
        if used > 0 && used + length > width {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        for (index, character) in word.chars().enumerate() {
            if used == width && index < length {
                // A word that is longer than a line.
                lines.push(std::mem::take(&mut line));
                used = 0;
            }
            if used < width {
                line.push(character);
                used += 1;
            }
        }
    }
    lines.push(line);
    lines
}

/// A text while it is typed.
pub fn field(text: &str) -> Line<'static> {
    Line::from(format!("  {text}█"))
}

/// Draws border, title, what went wrong, and the keys. Returns where the page itself goes.
pub fn page(frame: &mut Frame<'_>, title: &str, error: Option<&str>, keys: &str) -> Rect {
    let height = error.map_or(0, |error| lines_of(error, frame.area().width));
    let [page, below, last] =
        Layout::vertical([Constraint::Fill(1), Constraint::Length(height), Constraint::Length(1)])
            .areas(frame.area());
    let block = Block::bordered().title(format!(" {title} ")).title_style(Modifier::BOLD);
    let inside = block.inner(page);
    frame.render_widget(block, page);
    if let Some(error) = error {
        let error = Paragraph::new(error).wrap(Wrap { trim: true });
        frame.render_widget(error.style(marked()), below);
    }
    frame.render_widget(Line::from(keys), last);
    inside
}

/// How what is marked looks.
pub fn marked() -> Style {
    Style::new().add_modifier(Modifier::REVERSED)
}

/// Lines that an error takes at most: words do not break where lines end, so a line is not always full.
fn lines_of(error: &str, width: u16) -> u16 {
    let full = error.chars().count() / usize::from((width * 3 / 4).max(1)) + 1;
    u16::try_from(full).unwrap_or(u16::MAX).min(10)
}

/// A bar for so many of so many bytes.
pub fn bar(done: u64, total: u64) -> Gauge<'static> {
    let share = if total == 0 { 0.0 } else { done as f64 / total as f64 };
    Gauge::default().ratio(share.clamp(0.0, 1.0))
}

/// Bytes, rate in bytes per second and seconds left, as a line.
pub fn figures(done: u64, total: u64, rate: u64, seconds_left: Option<u64>) -> String {
    let left = seconds_left.map_or(String::new(), |left| format!(", {} left", time(left)));
    let gigabytes = |bytes: u64| format!("{:.2} GB", bytes as f64 / 1e9);
    format!("{} of {}, {} MB/s{left}", gigabytes(done), gigabytes(total), rate / 1_000_000)
}

fn time(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words_and_lose_nothing() {
        let table: [(&str, usize, &[&str]); 6] = [
            ("", 5, &[""]),
            ("one two", 10, &["one two"]),
            ("one two three", 7, &["one two", "three"]),
            ("abcdefgh ij", 3, &["abc", "def", "gh ", "ij"]),
            ("│esp│ data", 5, &["│esp│", "data"]),
            ("a   b", 2, &["a ", "b"]),
        ];
        for (text, width, expected) in table {
            let lines = wrapped(text, width);
            let trimmed: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
            let expected: Vec<&str> = expected.iter().map(|line| line.trim_end()).collect();
            assert_eq!(trimmed, expected, "{text:?} in {width}");
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{lines:?}");
        }
    }

    #[test]
    fn a_text_is_typed_and_taken_back() {
        let mut text = String::new();
        for key in
            [KeyCode::Char('a'), KeyCode::Char('ö'), KeyCode::Left, KeyCode::Backspace, KeyCode::Char('b')]
        {
            edit(&mut text, key);
        }
        assert_eq!(text, "ab");
        assert_eq!(format!("{:?} {}", Typed(text.clone()), Typed(text).dots()), "Typed(…) ••");
    }
}

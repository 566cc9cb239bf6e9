//! A page with fields: one has the focus, Enter leads through them, and what they say is checked by whoever made them.

use ratatui::crossterm::event::KeyCode;
use ratatui::text::{Line, Span};

use crate::parts::{edit, marked};

/// A field.
#[derive(Clone, PartialEq, Eq)]
pub struct Field {
    label: &'static str,
    hint: &'static str,
    value: String,
    secret: bool,
}

impl std::fmt::Debug for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = if self.secret { "…" } else { &self.value };
        write!(f, "{}: {value:?}", self.label)
    }
}

impl Field {
    /// A field with a text; `hint` says what is expected.
    pub fn new(label: &'static str, hint: &'static str, value: impl Into<String>) -> Self {
        Self { label, hint, value: value.into(), secret: false }
    }

    /// A field of which only dots are shown.
    pub fn secret(label: &'static str, hint: &'static str, value: impl Into<String>) -> Self {
        Self { label, hint, value: value.into(), secret: true }
    }
}

/// What a key did to a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is still filled in.
    Open,
    /// The last field was left with Enter.
    Submitted,
}

/// Fields, and which has the focus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    fields: Vec<Field>,
    focus: usize,
}

impl Form {
    /// With the focus on the first field.
    pub fn new(fields: Vec<Field>) -> Self {
        Self { fields, focus: 0 }
    }

    /// What a key does.
    pub fn key(&mut self, key: KeyCode) -> Outcome {
        let last = self.fields.len().saturating_sub(1);
        match key {
            KeyCode::Enter if self.focus == last => return Outcome::Submitted,
            KeyCode::Enter | KeyCode::Tab | KeyCode::Down => self.focus = (self.focus + 1).min(last),
            KeyCode::BackTab | KeyCode::Up => self.focus = self.focus.saturating_sub(1),
            key => {
                if let Some(field) = self.fields.get_mut(self.focus) {
                    edit(&mut field.value, key);
                }
            }
        }
        Outcome::Open
    }

    /// What the field with this label says, without spaces around; nothing where there is no such field. Of a secret also the
    /// spaces.
    pub fn value(&self, label: &str) -> &str {
        let field = self.fields.iter().find(|field| field.label == label);
        field.map_or("", |field| if field.secret { &field.value } else { field.value.trim() })
    }

    /// Gives the focus to the field with this label: what is wrong is there.
    pub fn focus_on(&mut self, label: &str) {
        if let Some(index) = self.fields.iter().position(|field| field.label == label) {
            self.focus = index;
        }
    }

    /// One line for each field, and the hint of the one that has the focus.
    pub fn lines(&self) -> Vec<Line<'static>> {
        let width = self.fields.iter().map(|field| field.label.chars().count()).max().unwrap_or(0);
        let line = |(index, field): (usize, &Field)| {
            let value =
                if field.secret { "•".repeat(field.value.chars().count()) } else { field.value.clone() };
            let label = Span::raw(format!("  {:width$}  ", field.label));
            if index == self.focus {
                return Line::from(vec![label, Span::raw(value), Span::styled(" ", marked())]);
            }
            Line::from(vec![label, Span::raw(value)])
        };
        let mut lines: Vec<_> = self.fields.iter().enumerate().map(line).collect();
        if let Some(field) = self.fields.get(self.focus) {
            lines.extend([Line::default(), Line::from(format!("  {}", field.hint))]);
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form() -> Form {
        Form::new(vec![
            Field::new("Name", "as people call it", "old "),
            Field::secret("Password", "nobody sees it", ""),
        ])
    }

    fn typed(form: &mut Form, text: &str) {
        text.chars().for_each(|typed| assert_eq!(form.key(KeyCode::Char(typed)), Outcome::Open));
    }

    #[test]
    fn enter_leads_through_the_fields_and_ends_at_the_last() {
        let mut form = form();
        form.key(KeyCode::Backspace);
        typed(&mut form, "er");
        assert_eq!(form.key(KeyCode::Enter), Outcome::Open);
        typed(&mut form, "s3 ");
        assert_eq!(form.key(KeyCode::Enter), Outcome::Submitted);
        assert_eq!((form.value("Name"), form.value("Password"), form.value("Other")), ("older", "s3 ", ""));
    }

    #[test]
    fn the_focus_stays_within_and_goes_where_something_is_wrong() {
        let mut form = form();
        form.key(KeyCode::Up);
        typed(&mut form, "x");
        form.key(KeyCode::Down);
        form.key(KeyCode::Tab);
        typed(&mut form, "y");
        form.focus_on("Name");
        typed(&mut form, "z");
        assert_eq!((form.value("Name"), form.value("Password")), ("old xz", "y"));
    }

    #[test]
    fn a_secret_is_shown_nowhere() {
        let mut form = form();
        form.focus_on("Password");
        typed(&mut form, "hunter2");
        let shown: String = form.lines().iter().map(|line| format!("{line}\n")).collect();
        assert!(shown.contains("  Password  •••••••") && shown.contains("  nobody sees it"), "{shown}");
        assert!(!format!("{shown}{form:?}").contains("hunter2"));
    }
}

//! Keys of a serial line. A key such as an arrow is an escape and some characters, which come one after the other, at 115200
//! baud 87 µs apart: whoever reads in between takes the escape for a key of its own, and the rest for letters. So what follows
//! an escape at once is put together here (ECMA-48, and the keys of a VT220).

use std::time::Duration;

use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};

/// How long more may follow: long beside a line's speed, and short beside a finger's.
pub(crate) const PATIENCE: Duration = Duration::from_millis(25);

/// The characters of the keys after the escape.
const KEYS: [(&str, KeyCode); 17] = [
    ("[A", KeyCode::Up),
    ("[B", KeyCode::Down),
    ("[C", KeyCode::Right),
    ("[D", KeyCode::Left),
    ("[H", KeyCode::Home),
    ("[F", KeyCode::End),
    ("[Z", KeyCode::BackTab),
    ("OA", KeyCode::Up),
    ("OB", KeyCode::Down),
    ("OC", KeyCode::Right),
    ("OD", KeyCode::Left),
    ("OH", KeyCode::Home),
    ("OF", KeyCode::End),
    ("[1~", KeyCode::Home),
    ("[4~", KeyCode::End),
    ("[5~", KeyCode::PageUp),
    ("[6~", KeyCode::PageDown),
];

/// The characters after an escape at the beginning; `None`: it does not begin with one, or something else is among them.
fn after_escape(events: &[Event]) -> Option<String> {
    let code = |event: &Event| match event {
        Event::Key(KeyEvent { code, .. }) => Some(*code),
        _ => None,
    };
    let (first, rest) = events.split_first()?;
    if code(first)? != KeyCode::Esc {
        return None;
    }
    rest.iter()
        .map(|event| match code(event)? {
            KeyCode::Char(character) => Some(character),
            _ => None,
        })
        .collect()
}

/// Whether what was read so far is the beginning of a key.
pub(crate) fn may_go_on(events: &[Event]) -> bool {
    let text = after_escape(events);
    text.is_some_and(|text| KEYS.iter().any(|(key, _)| key.starts_with(&text) && *key != text))
}

/// What was read as one key, where it is one; as it is otherwise.
pub(crate) fn assembled(events: Vec<Event>) -> Vec<Event> {
    let key = after_escape(&events).and_then(|text| KEYS.iter().find(|(key, _)| *key == text));
    match key {
        Some((_, code)) => vec![Event::Key(KeyEvent::new(*code, KeyModifiers::NONE))],
        None => events,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(text: &str) -> Vec<Event> {
        let code = |character| if character == '\x1b' { KeyCode::Esc } else { KeyCode::Char(character) };
        text.chars().map(|character| Event::Key(KeyEvent::new(code(character), KeyModifiers::NONE))).collect()
    }

    #[test]
    fn an_escape_and_what_follows_at_once_are_one_key() {
        let table = [
            ("\x1b", true, None),
            ("\x1b[", true, None),
            ("\x1b[A", false, Some(KeyCode::Up)),
            ("\x1bOB", false, Some(KeyCode::Down)),
            ("\x1b[5", true, None),
            ("\x1b[5~", false, Some(KeyCode::PageUp)),
            ("\x1bx", false, None),
            ("\x1b\x1b", false, None),
            ("a", false, None),
            ("[A", false, None),
        ];
        for (text, goes_on, key) in table {
            assert_eq!(may_go_on(&events(text)), goes_on, "{text:?}");
            let expected =
                key.map_or(events(text), |code| vec![Event::Key(KeyEvent::new(code, KeyModifiers::NONE))]);
            assert_eq!(assembled(events(text)), expected, "{text:?}");
        }
    }
}

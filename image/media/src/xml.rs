//! Text in XML.

/// Escapes what XML 1.0 gives a meaning to, in text and in attributes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&apos;",
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_escaped_is_read_again() {
        let text = "a <b> & \"c\" 'd' ä";
        let document = format!("<x y=\"{0}\">{0}</x>", escape(text));
        let read = roxmltree::Document::parse(&document).unwrap();
        assert_eq!(read.root_element().text(), Some(text));
        assert_eq!(read.root_element().attribute("y"), Some(text));
    }
}

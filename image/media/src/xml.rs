//! Text in XML.

/// Namespaces that a document may declare.
const NAMESPACES: usize = 64;
/// Elements that may be in each other: both kinds of documents have fewer than twenty.
const DEPTH: usize = 64;
/// Bytes that a tag may have.
const TAG_BYTES: usize = 16 << 10;

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

/// Whether a text can be parsed and searched without much ado. Namespaces and attributes are compared each with each by the parser,
/// and what is deep in others is found from each of them, so that a file of some megabytes could keep it for days.
///
/// # Errors
/// What there is too much of.
pub fn is_moderate(text: &str) -> Result<(), String> {
    let namespaces = text.matches("xmlns").count();
    if namespaces > NAMESPACES {
        return Err(format!("it declares {namespaces} namespaces"));
    }
    let longest =
        text.split('<').map(|tag| tag.split('>').next().unwrap_or_default().len()).max().unwrap_or(0);
    if longest > TAG_BYTES {
        return Err(format!("a tag has {longest} bytes"));
    }
    // As the text has it: what stands in a comment counts, too.
    let mut depth = 0usize;
    for tag in text.split('<').skip(1).filter(|tag| !tag.starts_with(['?', '!'])) {
        let is_empty = tag.split('>').next().is_some_and(|tag| tag.ends_with('/'));
        depth = match (tag.starts_with('/'), is_empty) {
            (true, _) => depth.saturating_sub(1),
            (false, true) => depth,
            (false, false) => depth + 1,
        };
        if depth > DEPTH {
            return Err(format!("it has more than {DEPTH} elements in each other"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_take_days_is_refused() {
        assert!(is_moderate("<a xmlns=\"b\"><c d=\"e\"/></a>").is_ok());
        assert!(is_moderate(&"<a xmlns:b=\"c\">".repeat(65)).unwrap_err().contains("65 namespaces"));
        assert!(is_moderate(&"<a b=\"/\"><!-- <c></c> --></a>".repeat(100)).is_ok());
        assert!(
            is_moderate(&"<a><b/>".repeat(65)).unwrap_err().contains("more than 64 elements in each other")
        );
        assert!(is_moderate(&format!("<a {}>", "b=\"c\" ".repeat(3000))).unwrap_err().contains("a tag has"));
    }

    #[test]
    fn what_is_escaped_is_read_again() {
        let text = "a <b> & \"c\" 'd' ä";
        let document = format!("<x y=\"{0}\">{0}</x>", escape(text));
        let read = roxmltree::Document::parse(&document).unwrap();
        assert_eq!(read.root_element().text(), Some(text));
        assert_eq!(read.root_element().attribute("y"), Some(text));
    }
}

//! Text in XML.

/// Namespaces that a document may declare.
const NAMESPACES: usize = 64;
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

/// Whether a text can be parsed without much ado. Namespaces and attributes are compared each with each by the parser, so that a
/// file of some megabytes could keep it for days.
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
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_take_days_is_refused() {
        assert!(is_moderate("<a xmlns=\"b\"><c d=\"e\"/></a>").is_ok());
        assert!(is_moderate(&"<a xmlns:b=\"c\">".repeat(65)).unwrap_err().contains("65 namespaces"));
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

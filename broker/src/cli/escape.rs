//! Text for a terminal. What agents write is hostile: a control sequence can rewrite the screen, the clipboard or the
//! window's title.

use std::borrow::Cow;

/// Characters that change the order in which others are shown, and so what a reader believes to read.
fn reorders(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn is_safe(character: char) -> bool {
    character == '\t' || !(character.is_control() || reorders(character))
}

/// The text with everything visible that would steer a terminal.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_safe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    text.chars().for_each(|character| push(&mut escaped, character));
    Cow::Owned(escaped)
}

fn push(escaped: &mut String, character: char) {
    if is_safe(character) {
        escaped.push(character);
    } else if character.is_ascii() {
        escaped.push_str(&format!("\\x{:02x}", u32::from(character)));
    } else {
        escaped.push_str(&format!("\\u{{{:x}}}", u32::from(character)));
    }
}

/// As [`escape`], but line ends and colours (SGR sequences) stay: for the raw view on a terminal.
pub(crate) fn escape_keeping_colours(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let length = match colour_bytes(rest) {
            0 if character == '\n' || rest.starts_with("\r\n") || rest == "\r" => 1,
            length => length,
        };
        if length > 0 {
            escaped.push_str(&rest[..length]);
            rest = &rest[length..];
        } else {
            push(&mut escaped, character);
            rest = &rest[character.len_utf8()..];
        }
    }
    escaped
}

/// Bytes of the SGR sequence (`ESC [ digits-and-separators m`) that the text begins with; 0 when there is none.
fn colour_bytes(text: &str) -> usize {
    let Some(parameters) = text.strip_prefix("\u{1b}[") else { return 0 };
    let end = parameters.find(|character: char| !matches!(character, '0'..='9' | ';' | ':'));
    match end {
        Some(end) if parameters[end..].starts_with('m') => "\u{1b}[".len() + end + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shows_what_would_steer() {
        assert_eq!(escape("plain\ttext é"), "plain\ttext é");
        assert_eq!(escape("\u{1b}]0;owned\u{7}"), "\\x1b]0;owned\\x07");
        assert_eq!(escape("a\u{9b}31m\u{202e}b\u{7f}"), "a\\u{9b}31m\\u{202e}b\\x7f");
        assert_eq!(escape_keeping_colours("\u{1b}[1;31mred\u{1b}[0m\n"), "\u{1b}[1;31mred\u{1b}[0m\n");
        assert_eq!(escape_keeping_colours("\u{1b}[2J\rx\r\n"), "\\x1b[2J\\x0dx\r\n");
    }

    proptest! {
        #[test]
        fn nothing_but_colours_reaches_the_terminal(text in "[\\x00-\\x7f\u{80}-\u{9f}é]{0,40}") {
            prop_assert!(escape(&text).chars().all(is_safe));
            let kept = escape_keeping_colours(&text);
            let mut rest = kept.as_str();
            while let Some(at) = rest.find('\u{1b}') {
                prop_assert!(colour_bytes(&rest[at..]) > 0);
                rest = &rest[at + 1..];
            }
        }
    }
}

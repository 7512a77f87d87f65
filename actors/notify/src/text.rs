//! Text of others, made fit to be shown.

/// The text in at most `max` bytes, on one line, without control characters, line separators and marks that turn the
/// direction of writing, which could make a reader see another text than the one that stands there.
pub(crate) fn plain(text: &str, max: usize) -> String {
    // More than fits is never looked at: a mark of three bytes may be left out of every four.
    let text = bounded(text, max.saturating_mul(4));
    let shown = text.chars().map(|c| match c {
        '\t' | '\n' | '\r' | '\u{2028}' | '\u{2029}' => ' ',
        c if c.is_control() || is_format_mark(c) => '\u{fffd}',
        c => c,
    });
    bounded(shown.collect::<String>().trim(), max)
}

/// Marks of direction, zero-width characters, the byte-order mark and tag characters.
const fn is_format_mark(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The text in at most `max` bytes; a longer one ends in `…`.
pub(crate) fn bounded(text: &str, max: usize) -> String {
    const MARK: char = '…';
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = max.saturating_sub(MARK.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut cut = text[..end].to_owned();
    if max >= MARK.len_utf8() {
        cut.push(MARK);
    }
    cut
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn plain_text_is_one_bounded_line_that_stays_what_it_is(text in "\\PC{0,40}|.{0,40}", max in 3_usize..64) {
            let shown = plain(&text, max);
            prop_assert!(shown.len() <= max);
            prop_assert!(!shown.chars().any(|c| c.is_control() || is_format_mark(c)));
            prop_assert_eq!(plain(&shown, max), shown.clone());
        }
    }

    #[test]
    fn a_mark_that_turns_the_direction_is_shown_as_one() {
        assert_eq!(plain("ex\u{202e}cod.exe\r\nBcc: a", 64), "ex\u{fffd}cod.exe  Bcc: a");
        assert_eq!(plain("a long name", 8), "a lon…");
    }
}

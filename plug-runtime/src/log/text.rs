//! Text that is never longer than it may be.

use std::fmt;

/// What is written into it, up to a limit. Then it ends with an ellipsis, and writing fails, so that whoever formats
/// stops.
pub(super) struct Limited {
    text: String,
    limit: usize,
    is_cut: bool,
}

impl Limited {
    /// Room for `limit` bytes.
    pub(super) fn new(limit: usize) -> Limited {
        Limited { text: String::new(), limit, is_cut: false }
    }

    /// The start of what `value` prints.
    pub(super) fn of(value: &dyn fmt::Display, limit: usize) -> String {
        let mut text = Limited::new(limit);
        // It fails at the limit, or because `value` does; what there is until then is the text.
        let _ = fmt::Write::write_fmt(&mut text, format_args!("{value}"));
        text.into_text()
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

impl fmt::Write for Limited {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        if self.is_cut {
            return Err(fmt::Error);
        }
        if self.text.len() + more.len() <= self.limit {
            self.text.push_str(more);
            return Ok(());
        }
        self.is_cut = true;
        let end = self.limit.saturating_sub(ELLIPSIS.len());
        let before = self.text.len();
        if before < end {
            self.text.push_str(&more[..boundary(more, end - before)]);
        } else {
            self.text.truncate(boundary(&self.text, end));
        }
        if self.text.len() + ELLIPSIS.len() <= self.limit {
            self.text.push_str(ELLIPSIS);
        }
        Err(fmt::Error)
    }
}

/// The last place up to `at` where a text can be cut.
fn boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

const ELLIPSIS: &str = "…";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_up_to_the_limit_is_whole_and_longer_text_ends_with_an_ellipsis() {
        assert_eq!(Limited::of(&"12345678", 8), "12345678");
        assert_eq!(Limited::of(&"123456789", 8), "12345…");
        assert_eq!(Limited::of(&format_args!("{}{}", "1234567", "89"), 8), "12345…");
        assert_eq!(Limited::of(&"ääääää", 8), "ää…", "not in the middle of a character");
        assert_eq!(Limited::of(&format_args!("{}{}", "ääää", "ä"), 8), "ää…");
        assert_eq!(Limited::of(&"123", 2), "", "no room for the ellipsis");
        assert_eq!(Limited::of(&"", 0), "");
    }

    #[test]
    fn formatting_stops_at_the_limit() {
        struct Endless;
        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("again ")?;
                }
            }
        }
        assert_eq!(Limited::of(&Endless, 10), "again a…");
    }
}

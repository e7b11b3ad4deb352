//! What is wrong with the input: all of it, with places.

use std::collections::BTreeSet;
use std::fmt;

/// Mistakes in `.proto` files or options, each as `file:line:col: what is wrong and what to do`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mistakes {
    /// Sorted, so that the report does not depend on the order of the checks, and without repetition,
    /// since one cause may be found by several.
    list: BTreeSet<Mistake>,
    /// What helps with all of them.
    help: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Mistake {
    file: String,
    /// Line and column, counted from 1. Unknown where the descriptors have no source positions.
    position: Option<(u32, u32)>,
    message: String,
}

impl Mistakes {
    /// A mistake that is not in a file, such as one in an option.
    pub(crate) fn general(message: impl Into<String>) -> Mistakes {
        let mut mistakes = Mistakes::default();
        mistakes.add("", None, message);
        mistakes
    }

    pub(crate) fn add(
        &mut self,
        file: &str,
        position: Option<(u32, u32)>,
        message: impl Into<String>,
    ) {
        self.list.insert(Mistake {
            file: printable(file),
            position,
            message: printable(&message.into()),
        });
    }

    pub(crate) fn with_help(mut self, help: &'static str) -> Mistakes {
        self.help = help;
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// `value`, unless there are mistakes.
    pub(crate) fn or<T>(self, value: T) -> Result<T, Mistakes> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Mistake { file, position, message }) in self.list.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            if !file.is_empty() {
                write!(f, "{file}:")?;
                if let Some((line, column)) = position {
                    write!(f, "{line}:{column}:")?;
                }
                write!(f, " ")?;
            }
            write!(f, "{message}")?;
        }
        if !self.help.is_empty() {
            write!(f, "\n{}", self.help)?;
        }
        Ok(())
    }
}

/// Text from a hostile file, made fit for one line of a terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_bidi_control(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Characters that reorder the text around them, and so make code read as what it is not.
pub(crate) fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{200E}' | '\u{200F}' | '\u{061C}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_sorted_by_place_and_told_once() {
        let mut mistakes = Mistakes::default();
        mistakes.add("b.proto", Some((1, 1)), "third");
        mistakes.add("a.proto", Some((10, 2)), "second");
        mistakes.add("a.proto", Some((9, 4)), "first");
        mistakes.add("a.proto", Some((9, 4)), "first");
        assert_eq!(
            mistakes.to_string(),
            "a.proto:9:4: first\na.proto:10:2: second\nb.proto:1:1: third"
        );
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\nb\u{202E}\u{1b}"), "a\\nb\\u{202e}\\u{1b}");
    }
}

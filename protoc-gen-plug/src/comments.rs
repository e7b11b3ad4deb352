//! Comments of a `.proto`, on their way to Rust docs.

use std::collections::HashMap;

use prost_types::{FileDescriptorProto, SourceCodeInfo, source_code_info::Location};

use crate::mistakes::is_bidi_control;

/// The source information that prost-build is given: a location for each item that it looks up,
/// with comments that are safe as Rust docs.
///
/// prost-build panics where a location is missing, so this is made new instead of filtered.
pub(crate) fn complete_source_info(file: &FileDescriptorProto) -> SourceCodeInfo {
    let mut known: HashMap<&[i32], &Location> = HashMap::new();
    for location in file.source_code_info.iter().flat_map(|info| &info.location) {
        known.entry(&location.path).or_insert(location);
    }
    let mut paths = Vec::new();
    item_paths(file, &mut |path| paths.push(path.to_vec()));
    let location = paths
        .into_iter()
        .map(|path| {
            let known = known.get(&path[..]);
            let comment = |text: Option<&String>| text.map(|text| sanitize(text));
            Location {
                leading_comments: comment(known.and_then(|l| l.leading_comments.as_ref())),
                trailing_comments: comment(known.and_then(|l| l.trailing_comments.as_ref())),
                path,
                ..Location::default()
            }
        })
        .collect();
    SourceCodeInfo { location }
}

/// The lines of a comment as Rust docs, `///` included.
pub(crate) fn doc_lines(comments: &prost_build::Comments) -> Vec<String> {
    let mut text = String::new();
    let attached = prost_build::Comments { leading_detached: Vec::new(), ..comments.clone() };
    attached.append_with_indent(0, &mut text);
    let mut lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
    while lines.last().is_some_and(|line| line == "///") {
        lines.pop();
    }
    lines
}

/// Calls `visit` with the path of every item that has docs in Rust.
fn item_paths(file: &FileDescriptorProto, visit: &mut impl FnMut(&[i32])) {
    let mut path = Vec::new();
    let mut each = |path: &mut Vec<i32>| visit(path);
    for (index, message) in file.message_type.iter().enumerate() {
        path.extend([4, index as i32]);
        message_paths(message, &mut path, &mut each);
        path.truncate(0);
    }
    for (index, item) in file.enum_type.iter().enumerate() {
        path.extend([5, index as i32]);
        children(item.value.len(), 2, &mut path, &mut each);
        path.truncate(0);
    }
    for (index, service) in file.service.iter().enumerate() {
        path.extend([6, index as i32]);
        children(service.method.len(), 2, &mut path, &mut each);
        path.truncate(0);
    }
}

fn message_paths(
    message: &prost_types::DescriptorProto,
    path: &mut Vec<i32>,
    visit: &mut impl FnMut(&mut Vec<i32>),
) {
    children(message.field.len(), 2, path, visit);
    for index in 0..message.oneof_decl.len() {
        child(8, index, path, visit);
    }
    for (index, nested) in message.nested_type.iter().enumerate() {
        path.extend([3, index as i32]);
        message_paths(nested, path, visit);
        path.truncate(path.len() - 2);
    }
    for (index, nested) in message.enum_type.iter().enumerate() {
        path.extend([4, index as i32]);
        children(nested.value.len(), 2, path, visit);
        path.truncate(path.len() - 2);
    }
}

/// The item at `path` and `count` items in it.
fn children(count: usize, tag: i32, path: &mut Vec<i32>, visit: &mut impl FnMut(&mut Vec<i32>)) {
    visit(path);
    for index in 0..count {
        child(tag, index, path, visit);
    }
}

fn child(tag: i32, index: usize, path: &mut Vec<i32>, visit: &mut impl FnMut(&mut Vec<i32>)) {
    path.extend([tag, index as i32]);
    visit(path);
    path.truncate(path.len() - 2);
}

/// Takes from a comment what a Rust doc comment must not hold: a lone carriage return is an error to
/// rustc, characters that turn the direction of text are a lint that denies, and control characters
/// have no business in a source file.
fn sanitize(comment: &str) -> String {
    let mut out = String::with_capacity(comment.len());
    for c in comment.chars() {
        match c {
            '\n' => out.push('\n'),
            '\r' => {}
            '\t' => out.push_str("    "),
            '\u{2028}' | '\u{2029}' => out.push(' '),
            _ if c.is_control() => out.push(' '),
            _ if is_bidi_control(c) => out.extend(c.escape_unicode()),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_rustc_refuses_stays_in_a_comment() {
        assert_eq!(sanitize("a\r\nb\rc\u{202E}d\u{0}\te"), "a\nbc\\u{202e}d     e");
    }
}

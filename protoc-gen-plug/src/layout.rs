//! How generated code is laid out: lines of at most a hundred columns, broken as rustfmt would.

/// The width that lines keep to where they can.
const WIDTH: usize = 100;

/// A function's head: `fn get(&self, key: String) -> T` and `end`, on one line or one line a
/// parameter.
pub(crate) fn function(
    indent: usize,
    start: &str,
    parameters: &[String],
    result: &str,
    end: &str,
) -> String {
    let one = format!("{start}({}) -> {result}{end}", parameters.join(", "));
    let pad = " ".repeat(indent);
    if indent + one.len() <= WIDTH {
        return format!("{pad}{one}\n");
    }
    let mut out = format!("{pad}{start}(\n");
    for parameter in parameters {
        out.push_str(&format!("{pad}    {parameter},\n"));
    }
    out.push_str(&format!("{pad}) -> {result}{end}\n"));
    out
}

/// `before`, `name { fields }`, `after`: the braces on one line, or one line a field.
pub(crate) fn braced(
    indent: usize,
    before: &str,
    name: &str,
    fields: &[String],
    after: &str,
) -> String {
    let pad = " ".repeat(indent);
    let one = match fields {
        [] => format!("{before}{name} {{}}{after}"),
        fields => format!("{before}{name} {{ {} }}{after}", fields.join(", ")),
    };
    if indent + one.len() <= WIDTH {
        return format!("{pad}{one}\n");
    }
    let mut out = format!("{pad}{before}{name} {{\n");
    for field in fields {
        out.push_str(&format!("{pad}    {field},\n"));
    }
    out.push_str(&format!("{pad}}}{after}\n"));
    out
}

/// A call: on one line, or one line an argument.
pub(crate) fn call(
    indent: usize,
    before: &str,
    function: &str,
    arguments: &[String],
    after: &str,
) -> String {
    let pad = " ".repeat(indent);
    let one = format!("{before}{function}({}){after}", arguments.join(", "));
    if indent + one.len() <= WIDTH {
        return format!("{pad}{one}\n");
    }
    let mut out = format!("{pad}{before}{function}(\n");
    for argument in arguments {
        out.push_str(&format!("{pad}    {argument},\n"));
    }
    out.push_str(&format!("{pad}){after}\n"));
    out
}

/// Whether something fits on a line.
pub(crate) fn fits(indent: usize, text: &str) -> bool {
    indent + text.len() <= WIDTH
}

/// A comment that heads a section.
pub(crate) fn section(title: &str) -> String {
    let dashes = (WIDTH - 1).saturating_sub("// ----  ".len() + title.len()).max(4);
    format!("// ---- {title} {}\n", "-".repeat(dashes))
}

/// `lines`, each indented.
pub(crate) fn indented(indent: usize, lines: &[String]) -> String {
    lines.iter().map(|line| format!("{}{line}\n", " ".repeat(indent))).collect()
}

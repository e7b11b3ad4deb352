//! The table of cases in `docs/reliability.md` says what is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A row: the id, the tests by their files, and the status.
struct Row<'a> {
    id: &'a str,
    tests: Vec<(&'a str, &'a str)>,
    status: &'a str,
}

#[test]
fn every_case_has_a_row_and_every_test_of_a_row_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = fs::read_to_string(root.join("docs/reliability.md")).unwrap();
    let rows: Vec<Row<'_>> = page.lines().filter_map(row).collect();
    let listed: Vec<String> =
        page.lines().filter(|line| line.starts_with("- ")).flat_map(ids).collect();
    assert!(listed.len() > 100, "the list of cases was not found");
    assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), listed, "a row for each case");

    for Row { id, tests, status } in &rows {
        let is_tested = ["tested", "partly: "].iter().any(|word| status.starts_with(word));
        let is_not = ["not here: ", "open: "].iter().any(|word| status.starts_with(word));
        assert!(is_tested || is_not, "{id} has the status {status:?}");
        assert_eq!(is_tested, !tests.is_empty(), "{id} is {status:?}, and its tests: {tests:?}");
        for (file, test) in tests {
            let folders = ["", "plug-runtime/src"];
            let path = match file.strip_prefix("it/") {
                Some(file) => Some(root.join("faults/tests/it").join(file)),
                None => {
                    folders.iter().map(|dir| root.join(dir).join(file)).find(|path| path.exists())
                }
            };
            let text = path.map(fs::read_to_string).and_then(Result::ok);
            let text = text.unwrap_or_else(|| panic!("{id}: there is no file {file}"));
            assert!(text.contains(&format!("fn {test}(")), "{id}: there is no {test} in {file}");
        }
    }

    // The other way round: a test is for cases that there are.
    let known: BTreeSet<&str> = rows.iter().map(|row| row.id).collect();
    for path in sources(&root.join("faults/tests/it")) {
        let text = fs::read_to_string(&path).unwrap();
        for name in
            text.split("fn ").skip(1).filter_map(|rest| rest.split_once('(')).map(|(name, _)| name)
        {
            for id in name.split('_').map(str::to_uppercase).take_while(|word| is_id(word)) {
                assert!(known.contains(id.as_str()), "{name} in {} is for no case", path.display());
            }
        }
    }
}

fn row(line: &str) -> Option<Row<'_>> {
    let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
    let [id, _, tests, status] = cells[..] else { return None };
    let tests = tests.split("; ").filter_map(|part| part.split_once(": "));
    let tests = tests.flat_map(|(file, names)| {
        names.split(", ").map(move |name| (file, name.trim_matches('`')))
    });
    is_id(id).then(|| Row { id, tests: tests.collect(), status })
}

/// The ids in a line such as `- Framing: F1 to F3, F5.`
fn ids(line: &str) -> Vec<String> {
    let Some((_, list)) = line.split_once(": ") else { return Vec::new() };
    let mut all = Vec::new();
    for part in list.trim_end_matches('.').split(", ") {
        let (from, to) = part.split_once(" to ").unwrap_or((part, part));
        if !is_id(from) || !is_id(to) {
            return Vec::new();
        }
        let number = |id: &str| id[1..].parse::<u32>().unwrap();
        all.extend((number(from)..=number(to)).map(|number| format!("{}{number}", &from[..1])));
    }
    all
}

/// Whether a word is the id of a case: a letter and a number.
fn is_id(word: &str) -> bool {
    let number = word.strip_prefix(['F', 'H', 'P', 'S', 'C', 'R', 'V', 'X', 'M']);
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

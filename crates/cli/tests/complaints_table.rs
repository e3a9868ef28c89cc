//! docs/COMPLAINTS.md: every complaint has an answer, and every test that it names exists.

use std::path::Path;

/// Complaints in the table.
const COMPLAINTS: usize = 25;

#[test]
fn every_complaint_is_answered_by_tests_that_exist() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(crates.join("../docs/COMPLAINTS.md")).unwrap();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| #"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let numbers: Vec<String> = rows.iter().map(|row| row[0].to_owned()).collect();
    assert_eq!(numbers, (1..=COMPLAINTS).map(|number| number.to_string()).collect::<Vec<_>>());
    for row in &rows {
        assert_eq!(row.len(), 5, "{row:?}");
        let tests: Vec<&str> = row[4].split(", ").map(|test| test.strip_prefix('`').unwrap().strip_suffix('`').unwrap()).collect();
        assert!(!tests.is_empty() && row[1..4].iter().all(|cell| !cell.is_empty()), "{row:?}");
        for test in tests {
            let (file, name) = test.split_once("::").unwrap();
            let source = std::fs::read_to_string(crates.join(file)).unwrap_or_else(|error| panic!("complaint {}: {file}: {error}", row[0]));
            let declared = source.lines().any(|line| {
                let line = line.trim_start();
                line.strip_prefix("async ")
                    .unwrap_or(line)
                    .strip_prefix("fn ")
                    .and_then(|rest| rest.strip_prefix(name))
                    .is_some_and(|rest| rest.starts_with('('))
            });
            assert!(declared, "complaint {}: there is no test {name} in {file}", row[0]);
        }
    }
}

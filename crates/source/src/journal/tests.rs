use std::os::unix::fs::PermissionsExt;

use beeline_model::Namespace;

use super::*;

fn namespace(name: &str) -> Change {
    Change::Apply(Box::new(Object::Namespace(Namespace { name: name.into(), labels: BTreeMap::new() })))
}

fn names(dir: &Path) -> Vec<String> {
    let changes = load(dir).unwrap();
    changes
        .iter()
        .filter_map(|change| match change {
            Change::Apply(object) => Some(object.name().name),
            _ => None,
        })
        .collect()
}

/// Records changes like one run of the agent, and stops.
fn write_journal(dir: &Path, changes: &[Change]) {
    fs::create_dir_all(dir).unwrap();
    let (lines, queue) = sync_channel(QUEUE_LINES_MAX);
    let journal = Journal { lines: Some(lines) };
    changes.iter().for_each(|change| journal.record(change));
    drop(journal);
    write_all(dir, &queue).unwrap();
}

#[test]
fn unit_the_state_survives_restarts_and_a_truncated_last_line() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("state");
    assert!(load(&dir).unwrap().is_empty(), "no journal is an empty state");
    let kind = Kind::Namespace;
    write_journal(
        &dir,
        &[Change::ResetStart(kind), namespace("a"), namespace("b"), Change::ResetEnd(kind), namespace("c")],
    );
    assert_eq!(names(&dir), ["a", "b", "c"]);
    write_journal(&dir, &[Change::Delete(kind, ObjectName::cluster("b"))]);
    assert_eq!(names(&dir), ["a", "c"]);
    // An incomplete listing removes nothing.
    write_journal(&dir, &[Change::ResetStart(kind), namespace("d")]);
    assert_eq!(names(&dir), ["a", "c", "d"]);
    write_journal(&dir, &[Change::ResetStart(kind), namespace("d"), Change::ResetEnd(kind)]);
    assert_eq!(names(&dir), ["d"]);

    let path = dir.join(FILE_NAME);
    append(&path).unwrap().write_all(b"{\"Apply\":{\"Namesp").unwrap();
    assert_eq!(names(&dir), ["d"], "a torn line is left out");
    write_journal(&dir, &[namespace("e")]);
    assert_eq!(names(&dir), ["d", "e"], "and the next start appends after it");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn unit_a_file_of_another_format_is_rejected_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FILE_NAME), "garbage\0\n").unwrap();
    assert!(load(dir.path()).unwrap_err().to_string().contains("not a journal"));
    write_journal(dir.path(), &[namespace("a")]);
    assert_eq!(names(dir.path()), ["a"]);
}

#[test]
fn unit_the_file_stays_small_over_many_changes() {
    let dir = tempfile::tempdir().unwrap();
    let changes: Vec<Change> =
        (0..QUEUE_LINES_MAX - 1).map(|i| namespace(&format!("{}-{}", i % 3, "x".repeat(600)))).collect();
    write_journal(dir.path(), &changes);
    let size = fs::metadata(dir.path().join(FILE_NAME)).unwrap().len();
    assert!(size < REWRITE_SLACK_BYTES + 10_000, "{size} bytes for three objects");
    assert_eq!(names(dir.path()).len(), 3);
}

#[test]
fn unit_changes_are_flushed_regularly_while_more_arrive() {
    let temporary = tempfile::tempdir().unwrap();
    let journal = Journal::open(Some(temporary.path()));
    journal.record(&namespace("first"));
    let deadline = Instant::now() + Duration::from_secs(10);
    while !names(temporary.path()).contains(&"first".to_owned()) {
        assert!(Instant::now() < deadline, "it is never quiet, and nothing is written");
        journal.record(&namespace("busy"));
        std::thread::sleep(Duration::from_millis(50));
    }
}

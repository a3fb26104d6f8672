//! Container logs in the CRI log format: `TIME STREAM F|P TEXT`. They are
//! bounded: a full log is rotated, and the previously rotated file is deleted.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use beeline_lab_net::paths::ContainerPaths;
use k8s_openapi::jiff::Timestamp;

/// Size at which a log is rotated.
pub const LOG_BYTES_MAX: u64 = 4 << 20;

/// Longer lines are split into partial entries (tag `P`).
const LINE_BYTES_MAX: usize = 16 << 10;

/// Interval at which a follower polls for new lines.
pub const FOLLOW_PAUSE: Duration = Duration::from_millis(50);

/// Writes the output of a container to its log.
pub struct LogWriter {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
}

impl LogWriter {
    /// Creates a log.
    pub fn create(path: &Path, bytes_max: u64) -> io::Result<LogWriter> {
        let file = File::create(path)?;
        Ok(LogWriter { path: path.to_owned(), file, bytes: 0, bytes_max })
    }

    /// Writes a line, or a part of one.
    pub fn write(&mut self, stream: &str, text: &[u8], whole: bool, now: Timestamp) -> io::Result<()> {
        if self.bytes >= self.bytes_max {
            fs::rename(&self.path, rotated(&self.path))?;
            (self.file, self.bytes) = (File::create(&self.path)?, 0);
        }
        let tag = if whole { 'F' } else { 'P' };
        let mut line = format!("{now:.9} {stream} {tag} ").into_bytes();
        line.extend_from_slice(text);
        line.push(b'\n');
        self.bytes += line.len() as u64;
        self.file.write_all(&line)
    }
}

/// Splits the output of a container into lines.
#[derive(Default)]
pub struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Takes bytes and passes on complete lines, and parts of lines that are
    /// too long.
    pub fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8], bool)) {
        self.pending.extend_from_slice(bytes);
        let mut begin = 0;
        loop {
            let rest = &self.pending[begin..];
            match rest.iter().position(|byte| *byte == b'\n') {
                Some(end) if end <= LINE_BYTES_MAX => {
                    line(&rest[..end], true);
                    begin += end + 1;
                }
                _ if rest.len() > LINE_BYTES_MAX => {
                    line(&rest[..LINE_BYTES_MAX], false);
                    begin += LINE_BYTES_MAX;
                }
                _ => break,
            }
        }
        self.pending.drain(..begin);
    }

    /// Passes on the last line if it has no newline.
    pub fn finish(&mut self, mut line: impl FnMut(&[u8], bool)) {
        if !self.pending.is_empty() {
            line(&std::mem::take(&mut self.pending), false);
        }
    }
}

/// The rotated file of a log.
fn rotated(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// Marks a log as complete.
pub fn mark_complete(path: &Path) -> io::Result<()> {
    fs::write(path.with_extension("ended"), "")
}

fn is_complete(path: &Path) -> bool {
    path.with_extension("ended").exists() || !path.exists()
}

/// Deletes a log and its rotated file.
pub fn remove(path: &Path) {
    for path in [path.to_owned(), rotated(path), path.with_extension("ended")] {
        // Missing files are ignored.
        let _ = fs::remove_file(path);
    }
}

/// The log of the container's last instance, or of the previous one.
pub fn find(container: &ContainerPaths, previous: bool) -> Option<PathBuf> {
    let entries = fs::read_dir(container.root()).into_iter().flatten().flatten();
    let run = |path: PathBuf| path.file_name()?.to_str()?.strip_suffix(".log")?.parse::<i32>().ok();
    let mut runs: Vec<i32> = entries.filter_map(|entry| run(entry.path())).collect();
    runs.sort_unstable();
    let last = runs.pop()?;
    let found = if previous { last - 1 } else { last };
    (found == last || runs.contains(&found)).then(|| container.log(found))
}

/// Options as in Kubernetes' PodLogOptions.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// Number of lines from the end of the log.
    pub tail: Option<usize>,
    /// Skip older lines.
    pub since: Option<Timestamp>,
    /// Prefix each line with its timestamp.
    pub timestamps: bool,
    /// Maximum number of bytes.
    pub limit_bytes: Option<u64>,
}

/// Reads a log, also while it is being written.
pub struct LogReader {
    path: PathBuf,
    file: Option<File>,
    options: LogOptions,
    pending: Vec<u8>,
    begun: bool,
    line_begins: bool,
    left: u64,
}

impl LogReader {
    /// Opens a log.
    pub fn open(path: &Path, options: LogOptions) -> LogReader {
        let left = options.limit_bytes.unwrap_or(u64::MAX);
        LogReader {
            path: path.to_owned(),
            file: None,
            options,
            pending: Vec::new(),
            begun: false,
            line_begins: true,
            left,
        }
    }

    /// Returns what was written since the last call, and whether the log is
    /// complete.
    pub fn read_more(&mut self) -> io::Result<(Vec<u8>, bool)> {
        // Checked first: everything written before completion is read below.
        let ended = is_complete(&self.path);
        if !self.begun {
            self.begun = true;
            if let Ok(mut file) = File::open(rotated(&self.path)) {
                file.read_to_end(&mut self.pending)?;
            }
            self.read()?;
            let lines = self.take_lines();
            let first = self.options.tail.map_or(0, |tail| tail_begin(&lines, tail));
            return Ok((self.show(&lines[first..]), ended || self.left == 0));
        }
        self.read()?;
        let lines = self.take_lines();
        Ok((self.show(&lines), ended || self.left == 0))
    }

    /// Reads to the end, and continues with the new file after a rotation.
    fn read(&mut self) -> io::Result<()> {
        loop {
            if let Some(file) = &mut self.file {
                file.read_to_end(&mut self.pending)?;
            }
            let next = match File::open(&self.path) {
                Ok(next) => next,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            };
            let inode = |file: &File| file.metadata().map(|about| about.ino()).ok();
            if self.file.as_ref().is_some_and(|file| inode(file) == inode(&next)) {
                return Ok(());
            }
            self.file = Some(next);
        }
    }

    fn take_lines(&mut self) -> Vec<Vec<u8>> {
        let Some(end) = self.pending.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let rest = self.pending.split_off(end + 1);
        let whole = std::mem::replace(&mut self.pending, rest);
        whole.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
    }

    fn show(&mut self, lines: &[Vec<u8>]) -> Vec<u8> {
        let mut shown = Vec::new();
        for line in lines {
            let Some(record) = Record::parse(line) else { continue };
            let old = |since: &Timestamp| record.time.parse::<Timestamp>().is_ok_and(|time| time < *since);
            if self.options.since.as_ref().is_some_and(old) {
                continue;
            }
            if self.options.timestamps && self.line_begins {
                shown.extend_from_slice(record.time.as_bytes());
                shown.push(b' ');
            }
            shown.extend_from_slice(record.text);
            if record.whole {
                shown.push(b'\n');
            }
            self.line_begins = record.whole;
        }
        shown.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= shown.len() as u64;
        shown
    }
}

/// Index of the first of the last `tail` whole lines.
fn tail_begin(lines: &[Vec<u8>], tail: usize) -> usize {
    let (mut begin, mut left) = (lines.len(), tail);
    while begin > 0 {
        let ends_a_line = Record::parse(&lines[begin - 1]).is_none_or(|record| record.whole);
        // The last line may be partial.
        if ends_a_line || begin == lines.len() {
            if left == 0 {
                break;
            }
            left -= 1;
        }
        begin -= 1;
    }
    begin
}

struct Record<'a> {
    time: &'a str,
    whole: bool,
    text: &'a [u8],
}

impl Record<'_> {
    fn parse(line: &[u8]) -> Option<Record<'_>> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?;
        let (_stream, tag) = (parts.next()?, parts.next()?);
        Some(Record { time, whole: tag == b"F", text: parts.next()? })
    }
}

/// Writes the log to standard output. With `follow` it returns when the
/// container has exited, otherwise at the end of the log.
pub fn print(path: &Path, options: LogOptions, follow: bool) -> io::Result<()> {
    let mut reader = LogReader::open(path, options);
    let mut out = io::stdout().lock();
    loop {
        let (bytes, ended) = reader.read_more()?;
        match out.write_all(&bytes).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
        if ended || !follow {
            return Ok(());
        }
        std::thread::sleep(FOLLOW_PAUSE);
    }
}

/// The end of a log, limited to a number of lines and bytes.
pub fn tail_text(path: &Path, lines: usize, bytes_max: usize) -> String {
    let shown = LogReader::open(path, LogOptions { tail: Some(lines), ..LogOptions::default() }).read_more();
    let shown = shown.map(|(bytes, _)| bytes).unwrap_or_default();
    let text = String::from_utf8_lossy(&shown[shown.len().saturating_sub(bytes_max)..]).into_owned();
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn read(path: &Path, options: LogOptions) -> String {
        String::from_utf8(LogReader::open(path, options).read_more().unwrap().0).unwrap()
    }

    fn written(lines: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut writer = LogWriter::create(&path, LOG_BYTES_MAX).unwrap();
        for (second, line) in lines.iter().enumerate() {
            writer.write("stdout", line.as_bytes(), true, at(second as i64)).unwrap();
        }
        (directory, path)
    }

    #[test]
    fn unit_log_options_follow_kubectl() {
        let (_directory, path) = written(&["one", "two  words", "", "four"]);
        let all = LogOptions::default;
        assert_eq!(read(&path, all()), "one\ntwo  words\n\nfour\n");
        assert_eq!(read(&path, LogOptions { tail: Some(2), ..all() }), "\nfour\n");
        assert_eq!(read(&path, LogOptions { tail: Some(0), ..all() }), "");
        assert_eq!(read(&path, LogOptions { tail: Some(9), ..all() }), "one\ntwo  words\n\nfour\n");
        assert_eq!(read(&path, LogOptions { since: Some(at(3)), ..all() }), "four\n");
        assert_eq!(read(&path, LogOptions { limit_bytes: Some(5), ..all() }), "one\nt");
        let stamped = read(&path, LogOptions { timestamps: true, tail: Some(1), ..all() });
        assert_eq!(stamped, "1970-01-01T00:00:03.000000000Z four\n");
    }

    #[test]
    fn unit_long_lines_are_split_and_rejoined() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut writer = LogWriter::create(&path, LOG_BYTES_MAX).unwrap();
        let mut lines = Lines::default();
        let text = format!("{}\nshort\nno end", "x".repeat(40_000));
        let mut write = |line: &[u8], whole| writer.write("stdout", line, whole, at(0)).unwrap();
        text.as_bytes().chunks(1000).for_each(|chunk| lines.push(chunk, &mut write));
        lines.finish(&mut write);
        assert_eq!(read(&path, LogOptions::default()), text);
        assert_eq!(read(&path, LogOptions { tail: Some(2), ..LogOptions::default() }), "short\nno end");
    }

    #[test]
    fn unit_logs_are_rotated_without_loss_for_followers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut writer = LogWriter::create(&path, 1000).unwrap();
        let mut follower = LogReader::open(&path, LogOptions::default());
        let mut followed = Vec::new();
        let mut expected = String::new();
        for number in 0..200 {
            let line = format!("line {number}");
            writer.write("stderr", line.as_bytes(), true, at(number)).unwrap();
            expected += &format!("{line}\n");
            let (bytes, ended) = follower.read_more().unwrap();
            followed.extend(bytes);
            assert!(!ended);
        }
        mark_complete(&path).unwrap();
        assert!(follower.read_more().unwrap().1);
        assert_eq!(String::from_utf8(followed).unwrap(), expected);
        let on_disk = fs::metadata(&path).unwrap().len() + fs::metadata(rotated(&path)).unwrap().len();
        assert!(on_disk < 2200, "{on_disk} bytes");
        assert!(read(&path, LogOptions::default()).ends_with("line 199\n"));
    }

    #[test]
    fn unit_the_previous_log_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let container = ContainerPaths::at(directory.path());
        assert_eq!(find(&container, false), None);
        fs::write(container.log(9), "").unwrap();
        assert_eq!((find(&container, false), find(&container, true)), (Some(container.log(9)), None));
        fs::write(container.log(10), "").unwrap();
        assert_eq!(find(&container, false), Some(container.log(10)));
        assert_eq!(find(&container, true), Some(container.log(9)));
        remove(&container.log(9));
        assert_eq!(find(&container, true), None);
    }
}

//! The names of files that are uploaded, in a file beside them.
//!
//! A name is written after the store has acknowledged the object. A crash in between, or a ledger that is lost, costs another upload
//! of the same content under the same name, never a row that is missing or there twice.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Names of removed files that are left in the file before it is written anew.
const MAX_STALE: usize = 1000;

/// The names that are uploaded to one destination.
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    /// First line: names under another destination don't count for this one.
    destination: String,
    names: BTreeSet<String>,
    /// Lines of names that are in `names` no longer.
    stale: usize,
    file: Option<File>,
}

impl Ledger {
    /// Reads the ledger at `path`. One that can't be read, or is of another destination, has no names.
    pub(super) fn open(path: PathBuf, destination: &str) -> Self {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let mut lines = text.split_inclusive('\n');
        let is_ours = lines.next().is_some_and(|line| line.trim_end() == destination);
        // The last line of a file that a crash left may be torn.
        let whole = lines.filter_map(|line| line.strip_suffix('\n'));
        let names = whole.filter(|_| is_ours).map(str::to_owned).collect();
        Self {
            path,
            destination: destination.to_owned(),
            names,
            stale: 0,
            file: None,
        }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Forgets the names that `exists` denies, which bounds the ledger by the number of files.
    pub(super) fn retain(&mut self, exists: impl Fn(&str) -> bool) {
        let before = self.names.len();
        self.names.retain(|name| exists(name));
        self.stale += before - self.names.len();
    }

    /// Forgets a name.
    pub(super) fn remove(&mut self, name: &str) {
        self.stale += usize::from(self.names.remove(name));
    }

    /// Adds a name.
    ///
    /// # Errors
    /// The system's error; the name counts until the process ends all the same.
    pub(super) fn add(&mut self, name: &str) -> io::Result<()> {
        self.names.insert(name.to_owned());
        match &mut self.file {
            Some(file) if self.stale <= MAX_STALE => file.write_all(format!("{name}\n").as_bytes()),
            _ => self.rewrite(),
        }
    }

    fn rewrite(&mut self) -> io::Result<()> {
        self.file = None;
        let mut text = format!("{}\n", self.destination);
        for name in &self.names {
            text.push_str(name);
            text.push('\n');
        }
        // Not in place of an extension: ids of components may have dots.
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(".tmp");
        let mut options = OpenOptions::new();
        options.create(true).mode(0o600);
        options
            .clone()
            .write(true)
            .truncate(true)
            .open(&temporary)?
            .write_all(text.as_bytes())?;
        fs::rename(&temporary, &self.path)?;
        self.file = Some(options.append(true).open(&self.path)?);
        self.stale = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_restart_but_not_another_destination() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".uploaded");
        let mut ledger = Ledger::open(path.clone(), "s3://a");
        ledger.add("one").unwrap();
        ledger.add("two").unwrap();
        let again = Ledger::open(path.clone(), "s3://a");
        assert!(again.contains("one") && again.contains("two") && !again.contains("three"));
        assert!(!Ledger::open(path, "s3://b").contains("one"));
    }

    #[test]
    fn a_torn_line_is_not_a_name_and_does_not_spoil_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".uploaded");
        fs::write(&path, "s3://a\none\ntw").unwrap();
        let mut ledger = Ledger::open(path.clone(), "s3://a");
        assert!(ledger.contains("one") && !ledger.contains("tw"));
        ledger.add("three").unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "s3://a\none\nthree\n");
    }

    #[test]
    fn it_is_bounded_by_the_files_that_there_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".uploaded");
        let mut ledger = Ledger::open(path.clone(), "s3://a");
        for index in 0..3 * MAX_STALE {
            ledger.add(&format!("{index:05}")).unwrap();
            if index > 0 {
                ledger.remove(&format!("{:05}", index - 1));
            }
        }
        let lines = fs::read_to_string(path).unwrap().lines().count();
        assert!(lines <= MAX_STALE + 5, "{lines}");
        ledger.retain(|_| false);
        assert!(!ledger.contains("02999"));
    }
}

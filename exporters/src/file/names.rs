//! Names of files: where they are, which are ours, and which is the older.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};
use std::{fs, io};

use flowtap_pipeline::Timestamp;

/// Stands for the time in a pattern.
const TIME: &str = "{time}";

/// Extension of a file that is being written.
const PARTIAL: &str = ".partial";

/// Marks the name of a file that a crash left, before its extension.
const RECOVERED: &str = ".recovered";

/// The pattern of the names: a folder, and the text before and after the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) folder: PathBuf,
    prefix: String,
    suffix: String,
}

/// One name that fits the pattern. They sort by age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    /// When its first window began, such as `20260102T030405Z`.
    time: String,
    /// Distinguishes files that began in the same second.
    number: u32,
    recovered: bool,
}

impl Name {
    /// The first name of a file whose first window begins at `start`.
    pub(super) fn starting(start: Timestamp) -> Self {
        let time = UNIX_EPOCH + Duration::from_nanos(start.as_nanos());
        let mut time = humantime::format_rfc3339_seconds(time).to_string();
        time.retain(|c| c != '-' && c != ':');
        Self {
            time,
            number: 0,
            recovered: false,
        }
    }

    /// The next, if this one is taken.
    pub(super) fn next(self) -> Self {
        Self {
            number: self.number.saturating_add(1),
            ..self
        }
    }

    /// Whether it begins after a file that begins at `moment` would.
    pub(super) fn is_after(&self, moment: Timestamp) -> bool {
        self.time > Self::starting(moment).time
    }

    /// The file that is kept of it after a crash.
    pub(super) fn recovered(self) -> Self {
        Self {
            recovered: true,
            ..self
        }
    }
}

impl Names {
    /// Reads the config's `path`; `extension` is for a folder, whose files' names are up to us.
    ///
    /// # Errors
    /// The reason why it is not valid.
    pub(super) fn new(path: &str, extension: &str) -> Result<Self, String> {
        if path.is_empty() {
            return Err(format!(
                "must be set: a folder, or a pattern such as /var/lib/flowtap/flows-{TIME}{extension}"
            ));
        }
        if path.contains('\0') {
            return Err("a path can't hold a zero byte".to_owned());
        }
        if !path.contains(TIME) {
            let known = [".json", ".jsonl", ".ndjson", ".gz", ".parquet"];
            if known.iter().any(|ending| path.ends_with(ending)) {
                return Err(format!(
                    "`{path}` would be a folder; hint: put {TIME} into the file name, as several files are written"
                ));
            }
            return Ok(Self {
                folder: PathBuf::from(path),
                prefix: "flowtap-".to_owned(),
                suffix: extension.to_owned(),
            });
        }
        let path = Path::new(path);
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let parts: Vec<_> = name.split(TIME).collect();
        match parts[..] {
            [prefix, suffix] if !folder.to_string_lossy().contains(TIME) => Ok(Self {
                folder: folder.to_owned(),
                prefix: prefix.to_owned(),
                suffix: suffix.to_owned(),
            }),
            _ => Err(format!(
                "`{}`: {TIME} must occur once, in the file name",
                path.display()
            )),
        }
    }

    /// The same for files of log records, which are distinguished from those of series by `logs-` before the time.
    pub(super) fn of_logs(mut self) -> Self {
        self.prefix.push_str("logs-");
        self
    }

    /// Where a finished file of this name is.
    pub(super) fn finished(&self, name: &Name) -> PathBuf {
        self.folder.join(self.text(name))
    }

    /// Where it is while it is being written.
    pub(super) fn partial(&self, name: &Name) -> PathBuf {
        self.folder.join(self.text(name) + PARTIAL)
    }

    fn text(&self, name: &Name) -> String {
        let number = match name.number {
            0 => String::new(),
            number => format!("-{number}"),
        };
        // Before the extension, so that readers of `*.jsonl` find it.
        let recovered = if name.recovered { RECOVERED } else { "" };
        format!("{}{}{number}{recovered}{}", self.prefix, name.time, self.suffix)
    }

    fn parse(&self, text: &str) -> Option<Name> {
        let middle = text.strip_prefix(&*self.prefix)?.strip_suffix(&*self.suffix)?;
        let whole = middle.strip_suffix(RECOVERED);
        let (time, number) = match whole.unwrap_or(middle).split_once('-') {
            Some((time, number)) => (time, number.parse().ok()?),
            None => (whole.unwrap_or(middle), 0),
        };
        let name = Name {
            time: time.to_owned(),
            number,
            recovered: whole.is_some(),
        };
        let digits = |range| {
            time.get(range)
                .is_some_and(|text: &str| text.bytes().all(|b| b.is_ascii_digit()))
        };
        let is_time =
            time.len() == 16 && digits(0..8) && digits(9..15) && &time[8..9] == "T" && time.ends_with('Z');
        // Whatever would be written otherwise (`-01`) is not ours.
        (is_time && self.text(&name) == text).then_some(name)
    }

    /// The files in the folder that match the pattern: (finished, being written or left by a
    /// crash), the oldest first.
    pub(super) fn list(&self) -> io::Result<(Vec<Name>, Vec<Name>)> {
        let (mut finished, mut partial) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.folder)? {
            let text = entry?.file_name();
            let Some(text) = text.to_str() else {
                continue;
            };
            match text.strip_suffix(PARTIAL) {
                Some(text) => partial.extend(self.parse(text)),
                None => finished.extend(self.parse(text)),
            }
        }
        finished.sort();
        partial.sort();
        Ok((finished, partial))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp::from_nanos(1_767_323_045_999_000_000);

    #[test]
    fn a_path_is_a_folder_or_a_pattern_with_one_time_in_the_files_name() {
        let folder = Names::new("/var/lib/flowtap", ".jsonl").unwrap();
        let name = Name::starting(AT);
        assert_eq!(
            folder.partial(&name),
            Path::new("/var/lib/flowtap/flowtap-20260102T030405Z.jsonl.partial")
        );
        let pattern = Names::new("flows_{time}.pq", ".parquet").unwrap();
        assert_eq!(pattern.finished(&name), Path::new("./flows_20260102T030405Z.pq"));
        for bad in [
            "",
            "/x/flows.jsonl",
            "/x/{time}/flows",
            "/x/{time}/{time}.parquet",
            "/x/{time}-{time}",
            "a\0b",
        ] {
            assert!(Names::new(bad, ".jsonl").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_are_read_back_and_nothing_else_is_taken_for_one() {
        let names = Names::new("/x/a-{time}.jsonl", "").unwrap();
        let first = Name::starting(AT);
        let later = Name::starting(AT.plus(Duration::from_secs(1)));
        let in_order = [
            first.clone(),
            first.clone().recovered(),
            first.clone().next(),
            first.clone().next().next().recovered(),
            later,
        ];
        assert!(in_order.is_sorted());
        for name in in_order {
            assert_eq!(names.parse(&names.text(&name)), Some(name));
        }
        for other in [
            "a-.jsonl",
            "a-20260102T030405Z.json",
            "a-20260102T030405Z-01.jsonl",
            "a-20260102T030405Z-0.jsonl",
            "a-20260102T030405Z-x.jsonl",
            "a-20260102t030405Z.jsonl",
            "a-2026010T0304055Z.jsonl",
            "a-20260102T030405é.jsonl",
            "b-20260102T030405Z.jsonl",
        ] {
            assert_eq!(names.parse(other), None, "{other}");
        }
    }
}

//! Names of files: where they are, which are ours, and which is the older.
//!
//! A template has placeholders: `{date}` and `{hour}` (UTC) for folders, as Hive partitions have them; `{time}` for the file's name;
//! `{host}` and `{kind}` for either. The first two and `{time}` are when a file's first rows are from, so a file's folder follows
//! from its name.

mod folder;
mod name;
mod placeholder;

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use flowtap_pipeline::{PipelineKind, Timestamp};

use self::folder::Folder;
pub(super) use self::name::Name;
use self::placeholder::{HOST, KIND, TIME, unknown};

/// Extension of a file that is being written.
const PARTIAL: &str = ".partial";

/// Extension of a Parquet file while a journal is converted to it.
const CONVERTING: &str = ".converting";

/// Marks the name of a file that a crash left, before its extension.
const RECOVERED: &str = ".recovered";

/// The pattern of the names: a folder that is always the same, folders in it by time, and the text before and after the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) root: PathBuf,
    folders: Vec<Folder>,
    prefix: String,
    suffix: String,
}

/// Whether the names of files that `path` gives differ from node to node: a folder has names of ours in it.
pub(super) fn has_host(path: &str) -> bool {
    !path.contains(TIME) || path.contains(HOST)
}

/// The part of `path` before its first placeholder: the folder that has all files of every node in it.
pub(super) fn root(path: &str) -> PathBuf {
    let path = Path::new(path);
    let fixed = path
        .components()
        .take_while(|component| !component.as_os_str().to_string_lossy().contains('{'));
    let root: PathBuf = fixed.collect();
    if root.as_os_str().is_empty() {
        return PathBuf::from(".");
    }
    root
}

/// The pattern of the files' names with `path` in the config, placeholders in it.
pub(super) fn pattern(path: &str, extension: &str) -> PathBuf {
    if path.contains(TIME) {
        return PathBuf::from(path);
    }
    Path::new(path).join(in_folder(extension))
}

/// The pattern of names in a folder.
fn in_folder(extension: &str) -> String {
    format!("flowtap-{KIND}-{HOST}-{TIME}{extension}")
}

impl Names {
    /// Reads the config's `path`; `extension` is for a folder, whose files' names are up to us.
    ///
    /// # Errors
    /// The reason why it is not valid.
    pub(super) fn new(path: &str, extension: &str, kind: PipelineKind, host: &str) -> Result<Self, String> {
        if path.is_empty() {
            return Err(format!(
                "must be set: a folder, or a pattern such as /var/lib/flowtap/flows-{TIME}{extension}"
            ));
        }
        if path.contains('\0') {
            return Err("a path can't hold a zero byte".to_owned());
        }
        let (folder, file) = split(path, extension, kind)?;
        let kind = match kind {
            PipelineKind::Metrics => "metrics",
            PipelineKind::Logs => "logs",
        };
        let host = file_safe(host);
        let fill = |text: &str| text.replace(KIND, kind).replace(HOST, &host);
        let file = fill(&file);
        let parts: Vec<_> = file.split(TIME).collect();
        let [prefix, suffix] = parts[..] else {
            return Err(format!("`{path}`: {TIME} must occur once, in the file name"));
        };
        if let Some(begin) = file.find('{').filter(|begin| !file[*begin..].starts_with(TIME)) {
            let end = file[begin..].find('}').map_or(file.len(), |end| begin + end + 1);
            return Err(unknown(&file[begin..end]));
        }
        let (mut root, mut folders) = (PathBuf::new(), Vec::new());
        for component in folder.components() {
            let Component::Normal(name) = component else {
                root.push(component);
                continue;
            };
            // A name that is not UTF-8 has no placeholder; a path from a config always is.
            let name = fill(&name.to_string_lossy());
            if name.contains(TIME) {
                return Err(format!("`{path}`: {TIME} must occur once, in the file name"));
            }
            let folder = Folder::parse(&name)?;
            if folders.is_empty() && folder.is_fixed() {
                root.push(name);
            } else {
                folders.push(folder);
            }
        }
        Ok(Self {
            root,
            folders,
            prefix: prefix.to_owned(),
            suffix: suffix.to_owned(),
        })
    }

    /// The folder of a file.
    pub(super) fn folder(&self, name: &Name) -> PathBuf {
        let folders = self.folders.iter().map(|folder| folder.at(name));
        self.root.join(folders.collect::<PathBuf>())
    }

    /// The partition that a row of `moment` belongs to. A file has rows of one.
    pub(super) fn partition(&self, moment: Timestamp) -> String {
        let name = Name::starting(moment);
        let mut partition = String::new();
        for folder in &self.folders {
            partition.push_str(&folder.at(&name));
            partition.push('/');
        }
        partition
    }

    /// Whether folders depend on the time.
    pub(super) fn is_partitioned(&self) -> bool {
        !self.folders.is_empty()
    }

    /// Where a finished file of this name is.
    pub(super) fn finished(&self, name: &Name) -> PathBuf {
        self.folder(name).join(self.text(name))
    }

    /// Where it is while it is being written.
    pub(super) fn partial(&self, name: &Name) -> PathBuf {
        self.folder(name).join(self.text(name) + PARTIAL)
    }

    /// Where a Parquet file is until it is whole.
    pub(super) fn converting(&self, name: &Name) -> PathBuf {
        self.folder(name).join(self.text(name) + CONVERTING)
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

    /// The files that match the pattern: (finished, being written or left by a crash), the oldest first.
    ///
    /// # Errors
    /// The root can't be read.
    pub(super) fn list(&self) -> io::Result<(Vec<Name>, Vec<Name>)> {
        let (mut finished, mut partial) = (Vec::new(), Vec::new());
        let mut folders = vec![(self.root.clone(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                // It was empty, and was removed.
                Err(error) if depth > 0 && error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                let text = entry.file_name();
                let Some(text) = text.to_str() else {
                    continue;
                };
                if let Some(level) = self.folders.get(depth) {
                    if level.matches(text) {
                        match entry.file_type() {
                            Ok(kind) if kind.is_dir() => folders.push((entry.path(), depth + 1)),
                            Ok(_) => {}
                            // Some file systems are asked for the type now, and it was removed.
                            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                            Err(error) => return Err(error),
                        }
                    }
                    continue;
                }
                // In the folder of another time it was put by hand.
                let ours = |text: &str| self.parse(text).filter(|name| self.folder(name) == folder);
                match text.strip_suffix(PARTIAL) {
                    Some(text) => partial.extend(ours(text)),
                    None => finished.extend(ours(text)),
                }
            }
        }
        finished.sort();
        partial.sort();
        Ok((finished, partial))
    }
}

/// The folder that `path` names, and the name of the files in it, both with their placeholders.
fn split<'a>(path: &'a str, extension: &str, kind: PipelineKind) -> Result<(&'a Path, String), String> {
    let given = Path::new(path);
    let text = |name: Option<&OsStr>| name.and_then(OsStr::to_str).unwrap_or_default().to_owned();
    if path.contains(TIME) {
        let folder = match given.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mut file = text(given.file_name());
        if !path.contains(KIND) && kind == PipelineKind::Logs {
            // Files of series and of log records never share a name.
            file = file.replacen(TIME, &format!("logs-{TIME}"), 1);
        }
        Ok((folder, file))
    } else {
        let known = [".json", ".jsonl", ".ndjson", ".gz", ".parquet"];
        if known.iter().any(|ending| path.ends_with(ending)) {
            return Err(format!(
                "`{path}` would be a folder; hint: put {TIME} into the file name, as several files are written"
            ));
        }
        Ok((given, in_folder(extension)))
    }
}

/// A host's name as a part of a file name: no separators, no placeholders. One that can't be a file's name as it is ends in a hash of
/// the whole name, so that two hosts never write to the same files.
fn file_safe(host: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    // `.` and `..` are other folders.
    if host.chars().all(safe) && host.chars().any(|c| c != '.') {
        return host.to_owned();
    }
    let name: String = host.chars().map(|c| if safe(c) { c } else { '_' }).collect();
    format!("{name}-{:08x}", fnv1a(host.as_bytes()))
}

/// Hash of 32 bits (RFC 9923, FNV-1a). It is in the names of files, so it must be the same in every version.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const AT: Timestamp = Timestamp::from_nanos(1_767_323_045_999_000_000);

    fn names(path: &str) -> Names {
        Names::new(path, ".parquet", PipelineKind::Metrics, "node1").unwrap()
    }

    #[test]
    fn a_path_is_a_folder_or_a_pattern_with_one_time_in_the_files_name() {
        let name = Name::starting(AT);
        assert_eq!(
            names("/var/lib/flowtap").partial(&name),
            Path::new("/var/lib/flowtap/flowtap-metrics-node1-20260102T030405Z.parquet.partial")
        );
        assert_eq!(
            names("flows_{time}.pq").finished(&name),
            Path::new("./flows_20260102T030405Z.pq")
        );
        for bad in [
            "",
            "/x/flows.jsonl",
            "/x/{time}/flows",
            "/x/{time}/{time}.parquet",
            "/x/{time}-{time}",
            "/x/{day}",
            "/x/{date",
            "/x/{date}-{time}.parquet",
            "a\0b",
        ] {
            let result = Names::new(bad, ".jsonl", PipelineKind::Metrics, "node1");
            // A date in the file's name would repeat the time.
            assert!(result.is_err(), "{bad:?}");
        }
    }

    #[test]
    fn placeholders_give_partitions_and_the_identity_of_the_node() {
        let name = Name::starting(AT);
        assert_eq!(
            names("/x/date={date}/hour={hour}").finished(&name),
            Path::new("/x/date=2026-01-02/hour=03/flowtap-metrics-node1-20260102T030405Z.parquet")
        );
        let logs = |path| Names::new(path, ".parquet", PipelineKind::Logs, "a/b {c}").unwrap();
        assert_eq!(
            logs("/x/{kind}/{date}T{hour}/{host}/f-{time}.parquet").finished(&name),
            Path::new("/x/logs/2026-01-02T03/a_b__c_-1ac89d94/f-20260102T030405Z.parquet")
        );
        assert_eq!(
            logs("/x/f-{time}.parquet").finished(&name),
            Path::new("/x/f-logs-20260102T030405Z.parquet")
        );
        let hourly = names("/x/date={date}/hour={hour}");
        let same = AT.plus(Duration::from_secs(60));
        let other = AT.plus(Duration::from_secs(3600));
        assert_eq!(hourly.partition(AT), hourly.partition(same));
        assert_ne!(hourly.partition(AT), hourly.partition(other));
        assert!(!names("/x").is_partitioned());
    }

    #[test]
    fn two_hosts_never_have_the_same_name() {
        for host in ["node1", "rack1_n1", "n-1.example.com", "_"] {
            assert_eq!(file_safe(host), host);
        }
        // By the specification's test vectors: FNV-1a of "" and of "foobar".
        assert_eq!((fnv1a(b""), fnv1a(b"foobar")), (0x811c_9dc5, 0xbf9c_f968));
        let hosts = [
            "rack1/n1",
            "rack1_n1",
            "rack1 n1",
            "rack1ün1",
            "n\u{f6} de/1",
            "n__de_1",
        ];
        let names: std::collections::BTreeSet<_> = hosts.iter().copied().map(file_safe).collect();
        assert_eq!(names.len(), hosts.len(), "{names:?}");
        for host in ["", ".", "..", "a/../b", "{time}"] {
            let name = file_safe(host);
            let folders: Vec<_> = Path::new(&name).components().collect();
            assert!(
                matches!(folders[..], [Component::Normal(_)]) && !name.contains('{'),
                "{host:?}: {name}"
            );
        }
    }

    #[test]
    fn files_are_found_in_their_own_partition_only() {
        let dir = tempfile::tempdir().unwrap();
        let names = names(&format!("{}/date={{date}}/hour={{hour}}", dir.path().display()));
        let put = |path: PathBuf| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        let first = Name::starting(AT);
        let later = Name::starting(AT.plus(Duration::from_secs(86_400)));
        put(names.finished(&later));
        put(names.finished(&first));
        put(names.partial(&later.clone().next()));
        // In the folder of another day, of another node, in no partition.
        put(names.folder(&first).join(names.text(&later)));
        put(names
            .folder(&first)
            .join("flowtap-metrics-node2-20260102T030405Z.parquet"));
        put(dir.path().join("date=x/hour=03").join(names.text(&first)));
        put(dir.path().join(names.text(&first)));
        assert_eq!(
            names.list().unwrap(),
            (vec![first, later.clone()], vec![later.next()])
        );
    }

    #[test]
    fn names_are_read_back_and_nothing_else_is_taken_for_one() {
        let names = Names::new("/x/a-{time}.jsonl", "", PipelineKind::Metrics, "node1").unwrap();
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

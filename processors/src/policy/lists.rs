//! The config's lists with their files read, and a watch on these files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowtap_pipeline::{PeerClass, Published, files};

use super::config::{Config, Entry};
use super::source::Source;
use crate::cidr::{Cidr, InvalidCidr};

/// Maximum size of a file, for some millions of ranges.
const MAX_BYTES: u64 = 128 << 20;

/// Why a list can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// More names of classes than there are numbers for.
    #[error("`classes` has come to more than 65,000 names since flowtap started; restart it")]
    TooManyClasses,
    /// A file can't be read.
    #[error("can't read {}: {source}; hint: name a file that flowtap may read", .file.display())]
    File {
        /// Which file.
        file: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// A line of a file that is not a range.
    #[error("{}, line {line}: {source}", .file.display())]
    Line {
        /// Which file.
        file: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// Error of the parser.
        source: InvalidCidr,
    },
}

impl ListError {
    /// The file that it is about.
    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            Self::TooManyClasses => None,
            Self::File { file, .. } | Self::Line { file, .. } => Some(file),
        }
    }
}

/// Every list, as ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// `abnormal_black_list`.
    pub black: Vec<Cidr>,
    /// `abnormal_white_list`.
    pub white: Vec<Cidr>,
    /// The classes, in the order in which they win over each other.
    pub classes: Vec<(PeerClass, Source, Vec<Cidr>)>,
}

impl Lists {
    /// Reads the files that `config` names.
    ///
    /// # Errors
    /// [`ListError`] with file, line and entry.
    pub fn read(config: &Config) -> Result<Self, ListError> {
        let mut classes = Vec::new();
        for own in &config.classes {
            let class = PeerClass::custom(&own.name).ok_or(ListError::TooManyClasses)?;
            classes.push((class, Source::CustomClass(class.as_str()), ranges(&own.cidrs)?));
        }
        let built_in = [
            (PeerClass::K8sPod, "k8s_pod", &config.k8s_pod),
            (PeerClass::K8sSvc, "k8s_svc", &config.k8s_svc),
            (PeerClass::Dns, "dns", &config.dns),
            (PeerClass::Localhost, "localhost", &config.localhost),
            (PeerClass::Docker, "docker", &config.docker),
            (PeerClass::InternalHosts, "internal_hosts", &config.internal_hosts),
        ];
        for (class, key, list) in built_in {
            classes.push((class, Source::List(key), ranges(list)?));
        }
        Ok(Self {
            black: ranges(&config.abnormal_black_list)?,
            white: ranges(&config.abnormal_white_list)?,
            classes,
        })
    }
}

fn ranges(list: &[Entry]) -> Result<Vec<Cidr>, ListError> {
    let mut ranges = Vec::new();
    for entry in list {
        match entry {
            Entry::Range(range) => ranges.push(*range),
            Entry::File(path) => read_file(path, &mut ranges)?,
        }
    }
    Ok(ranges)
}

fn read_file(path: &Path, ranges: &mut Vec<Cidr>) -> Result<(), ListError> {
    let text = files::read_text(path, MAX_BYTES).map_err(|source| ListError::File {
        file: path.to_owned(),
        source,
    })?;
    for (line, text) in (1..).zip(text.lines()) {
        let entry = text.split('#').next().unwrap_or_default().trim();
        if entry.is_empty() {
            continue;
        }
        let range = entry.parse().map_err(|source| ListError::Line {
            file: path.to_owned(),
            line,
            source,
        })?;
        ranges.push(range);
    }
    Ok(())
}

/// The lists, read again when one of their files changes. A file that has become wrong leaves what was read before, with a
/// warning.
///
/// # Errors
/// [`ListError`] for what can't be read now.
pub(super) fn follow(config: &Config) -> Result<Arc<Published<Lists>>, ListError> {
    let paths = config.files().into_iter().map(Path::to_owned).collect();
    let config = config.clone();
    crate::follow::follow(paths, "the policy's lists", move || Lists::read(&config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::thread;
    use std::time::{Duration, Instant};

    fn config_with(path: &Path) -> Config {
        Config {
            abnormal_black_list: vec![Entry::File(path.to_owned())],
            ..Config::default()
        }
    }

    #[test]
    fn a_file_holds_a_range_per_line_with_comments() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(
            file.path(),
            "# bad ones\n198.51.100.0/24  # all of it\n\n2001:db8::1\n",
        )
        .unwrap();
        let lists = Lists::read(&config_with(file.path())).unwrap();
        let shown: Vec<_> = lists.black.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["198.51.100.0/24", "2001:db8::1/128"]);
    }

    #[test]
    fn a_bad_entry_is_an_error_that_names_file_line_and_entry() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "198.51.100.0/24\n198.51.100.300\n").unwrap();
        let error = Lists::read(&config_with(file.path())).unwrap_err().to_string();
        let start = format!("{}, line 2: `198.51.100.300`", file.path().display());
        assert!(error.starts_with(&start), "{error}");
        let error = Lists::read(&config_with(Path::new("/nowhere")))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("can't read /nowhere: "), "{error}");
    }

    #[test]
    fn a_file_that_changes_is_read_again_and_one_that_is_wrong_leaves_what_was() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "198.51.100.0/24\n").unwrap();
        let live = follow(&config_with(file.path())).unwrap();
        let wait_for = |count: usize| {
            let deadline = Instant::now() + Duration::from_secs(60);
            while live.load().black.len() != count {
                assert!(Instant::now() < deadline, "{:?}", live.load().black);
                thread::sleep(Duration::from_millis(50));
            }
        };
        fs::write(file.path(), "198.51.100.0/24\n203.0.113.0/24\n").unwrap();
        wait_for(2);
        fs::write(file.path(), "nonsense, and then\n").unwrap();
        fs::write(file.path(), "198.51.100.0/24\n203.0.113.0/24\n192.0.2.0/24\n").unwrap();
        wait_for(3);
    }
}

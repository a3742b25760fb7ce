//! Files of manifests, as `kubectl` reads them with `-f`: a file, `-` for standard input, or the files of a directory.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flowtap_receivers::replay::is_recording;

use crate::exit::{Code, ExitError};

/// A file of a cluster's objects is not longer: it is read as a whole.
const MAX_FILE_BYTES: u64 = 512 * 1024 * 1024;

/// Bytes of a file by which a recording is known.
const HEAD_BYTES: u64 = 8;

/// Ends of the names of files that are read in a directory.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

/// The objects that an argument stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    Policies,
    Cluster,
}

impl Content {
    const fn name(self) -> &'static str {
        match self {
            Self::Policies => "NetworkPolicies",
            Self::Cluster => "Pods, Namespaces, Services and Nodes",
        }
    }

    /// Where a recording belongs that was named in their place.
    const fn hint(self) -> &'static str {
        match self {
            Self::Policies => {
                "recordings are the last arguments: `flowtap policy check --file POLICIES RECORDING`, `flowtap policy diff A B RECORDING`"
            }
            Self::Cluster => {
                "name a recording without an option, as the last argument: the objects of its cluster are used without `--cluster`"
            }
        }
    }
}

/// The input that an argument names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// One file; `-` is standard input.
    File,
    /// The files of a directory, in the order of their names.
    Directory(Vec<PathBuf>),
}

impl Named {
    /// Looks up an argument. Files in subdirectories are not read, as by `kubectl` without `-R`.
    ///
    /// # Errors
    /// A file that can't be found; a directory that can't be read, or without a file of manifests.
    pub(super) fn of(argument: &Path) -> Result<Self, ExitError> {
        if is_stdin(argument) {
            return Ok(Self::File);
        }
        let metadata = |file: &Path| fs::metadata(file).map_err(|error| unreadable(file, &error));
        if !metadata(argument)?.is_dir() {
            return Ok(Self::File);
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(argument).map_err(|error| unreadable(argument, &error))? {
            let file = entry.map_err(|error| unreadable(argument, &error))?.path();
            let is_manifest = file
                .extension()
                .is_some_and(|extension| EXTENSIONS.iter().any(|it| extension == *it));
            if is_manifest && !metadata(&file)?.is_dir() {
                files.push(file);
            }
        }
        if files.is_empty() {
            let error = "no file of this directory ends in .json, .yaml or .yml; hint: files in subdirectories are not read, name \
                         these as well";
            return Err(unreadable(argument, &error));
        }
        files.sort();
        Ok(Self::Directory(files))
    }
}

fn is_stdin(argument: &Path) -> bool {
    argument.as_os_str() == "-"
}

/// Its name in messages.
pub(super) fn name(file: &Path) -> String {
    if is_stdin(file) {
        "standard input".to_owned()
    } else {
        file.display().to_string()
    }
}

/// # Errors
/// Standard input in more than one argument: it can be read once.
pub(super) fn check_stdin<'a>(arguments: impl IntoIterator<Item = &'a PathBuf>) -> Result<(), ExitError> {
    match arguments.into_iter().filter(|file| is_stdin(file)).count() {
        0 | 1 => Ok(()),
        count => Err(ExitError::new(
            Code::CheckUsage,
            format!(
                "`-` is given {count} times, and standard input can be read once; hint: name files for the others"
            ),
        )),
    }
}

/// The text of a file.
///
/// # Errors
/// A file that can't be read, is too long, is a recording, or is not UTF-8.
pub(super) fn read(file: &Path, content: Content) -> Result<String, ExitError> {
    let name = name(file);
    let unreadable = |error: &dyn std::fmt::Display| unreadable(file, error);
    let mut bytes = Vec::new();
    let mut fill = |from: &mut dyn Read, most| {
        let filled = from.take(most).read_to_end(&mut bytes);
        filled
            .map_err(|error| unreadable(&error))
            .map(|_| is_recording(&bytes))
    };
    let mut source: Box<dyn Read> = if is_stdin(file) {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(file).map_err(|error| unreadable(&error))?;
        Box::new(file)
    };
    // A recording may be longer than a file of objects.
    if fill(&mut source, HEAD_BYTES)? {
        let error = format!(
            "{name} is a recording of flowtap; expected {} in YAML or JSON\n  hint: {}",
            content.name(),
            content.hint()
        );
        return Err(ExitError::new(Code::Data, error));
    }
    fill(&mut source, MAX_FILE_BYTES)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let error = format!(
            "more than {MAX_FILE_BYTES} bytes; at most that are read; hint: split it, the option may be given again"
        );
        return Err(unreadable(&error));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.split(|byte| *byte == b'\n').count();
        let error = format!("{name}, line {line}: not UTF-8, in which YAML and JSON are read");
        ExitError::new(Code::Data, error)
    })
}

fn unreadable(file: &Path, error: &dyn std::fmt::Display) -> ExitError {
    ExitError::new(Code::NoInput, format!("{}: {error}", name(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_its_manifests_in_order_without_those_of_directories_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("sub.yaml")).unwrap();
        fs::write(path("notes.txt"), "").unwrap();
        fs::write(path("sub.yaml/c.yaml"), "").unwrap();
        let error = Named::of(folder.path()).unwrap_err();
        assert_eq!(error.code, Code::NoInput);
        let message = error.to_string();
        assert!(
            message.contains("no file of this directory ends in .json, .yaml or .yml"),
            "{message}"
        );
        for name in ["b.yml", "a.yaml", "c.json"] {
            fs::write(path(name), "").unwrap();
        }
        let files = ["a.yaml", "b.yml", "c.json"].map(path).into();
        assert_eq!(Named::of(folder.path()).unwrap(), Named::Directory(files));
        assert_eq!(Named::of(&path("notes.txt")).unwrap(), Named::File);
        assert_eq!(Named::of(Path::new("-")).unwrap(), Named::File);
        assert_eq!(Named::of(&path("absent")).unwrap_err().code, Code::NoInput);
    }

    #[test]
    fn standard_input_is_read_for_one_argument_alone() {
        let files = ["-", "a.yaml", "-"].map(PathBuf::from);
        assert!(check_stdin(&files[..2]).is_ok());
        let error = check_stdin(&files).unwrap_err();
        assert_eq!(error.code, Code::CheckUsage);
        assert!(error.to_string().contains("`-` is given 2 times"), "{error}");
    }

    #[test]
    fn a_recording_is_named_as_one_with_its_place_among_the_arguments() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node.flowtap");
        flowtap_receivers::replay::Writer::create(&file)
            .unwrap()
            .flush()
            .unwrap();
        for (content, expected, hint) in [
            (
                Content::Policies,
                "expected NetworkPolicies",
                "policy diff A B RECORDING",
            ),
            (
                Content::Cluster,
                "expected Pods, Namespaces",
                "without `--cluster`",
            ),
        ] {
            let error = read(&file, content).unwrap_err();
            assert_eq!(error.code, Code::Data);
            let message = error.to_string();
            let what = "node.flowtap is a recording of flowtap; ";
            assert!(
                [what, expected, hint].iter().all(|part| message.contains(part)),
                "{message}"
            );
        }
    }
}

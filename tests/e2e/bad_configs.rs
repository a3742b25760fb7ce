//! Every config of `tests/configs/bad` is refused with what its first lines say: `# expect: LINE KEY WORDS`.
//!
//! `LINE` and `KEY` are those that the error must name (`-`: none, as the file can't be read as a whole), `WORDS` a
//! part of what it says, its help included. Exit code 78 each time, without a panic, in bounded time and memory.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Far more than any takes, far less than a bomb would.
const TIME: Duration = Duration::from_secs(20);
const MEMORY_KIB: u64 = 2 << 20;

/// Maximum output; it is read by people.
const MAX_OUTPUT: usize = 128 << 10;

struct Expectation {
    line: Option<usize>,
    key: String,
    words: String,
}

fn expectations(path: &Path) -> Vec<Expectation> {
    let bytes = fs::read(path).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().map_while(|line| line.strip_prefix("# expect: "));
    let parsed: Vec<_> = lines
        .map(|line| {
            let mut parts = line.splitn(3, ' ');
            // A key may have spaces in it; then it is in quotes.
            let (number, rest) = (parts.next().unwrap(), line.split_once(' ').unwrap().1);
            let (key, words) = match rest.strip_prefix('\'') {
                Some(quoted) => quoted.split_once('\'').unwrap(),
                None => rest.split_once(' ').unwrap_or((rest, "")),
            };
            Expectation {
                line: (number != "-").then(|| number.parse().unwrap()),
                key: key.to_owned(),
                words: words.trim().to_owned(),
            }
        })
        .collect();
    assert!(!parsed.is_empty(), "{} expects nothing", path.display());
    parsed
}

/// Exit status and standard error of `flowtap validate`, with its memory and time limited.
fn validate(path: &Path) -> (ExitStatus, String) {
    let script = format!("ulimit -v {MEMORY_KIB}; exec \"$0\" validate --config \"$1\"");
    let mut child = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_flowtap")])
        .arg(path)
        .env_remove("FLOWTAP_CONFIG")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let reader = std::thread::Builder::new()
        .spawn(move || {
            let mut said = Vec::new();
            stderr.read_to_end(&mut said).unwrap();
            String::from_utf8_lossy(&said).into_owned()
        })
        .unwrap();
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > TIME {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{} takes longer than {TIME:?}", path.display());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    (status, reader.join().unwrap())
}

/// The first thing that is not as it must be.
fn problem(path: &Path) -> Option<String> {
    let (status, said) = validate(path);
    if status.code() != Some(78) || said.contains("panicked") {
        return Some(format!("{status}\n{said}"));
    }
    if said.len() > MAX_OUTPUT {
        return Some(format!("{} bytes of output", said.len()));
    }
    if said.contains("hunter2") {
        return Some(format!("a secret is shown:\n{said}"));
    }
    // Each error with its excerpt and help: up to where the next one begins.
    let mut errors: Vec<String> = Vec::new();
    for line in said.lines().skip(1) {
        let begins =
            line.starts_with(&path.display().to_string()) || line.starts_with("the built-in defaults");
        match errors.last_mut() {
            Some(error) if !begins => error.extend(["\n", line]),
            _ => errors.push(line.to_owned()),
        }
    }
    expectations(path).iter().find_map(|expected| {
        let place = match expected.line {
            Some(line) => format!("{}:{line}:", path.display()),
            None => path.display().to_string(),
        };
        let told = errors.iter().any(|error| {
            let Some(rest) = error.strip_prefix(&place) else {
                return false;
            };
            let Some((_, rest)) = rest.split_once(": ") else {
                return false;
            };
            let key = expected.key == "-" || rest.starts_with(&expected.key);
            key && error.contains(&expected.words)
        });
        let Expectation { line, key, words } = expected;
        (!told).then(|| format!("not told of line {line:?}, key {key}, `{words}`:\n{said}"))
    })
}

#[test]
fn every_bad_config_is_refused_with_the_right_key_and_line() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs/bad");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 100, "{} bad configs", files.len());
    let problems: Vec<_> = files
        .iter()
        .filter_map(|path| Some(format!("{}: {}", path.display(), problem(path)?)))
        .collect();
    assert!(
        problems.is_empty(),
        "{} of {}:\n{}",
        problems.len(),
        files.len(),
        problems.join("\n")
    );
}

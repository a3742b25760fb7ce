//! Files and folders that the sandbox leaves open, for configs that come after it was entered.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use flowtap_config::{Config, ConfigErrors};
use flowtap_pipeline::Contract;

use super::access::READ;
use super::needs::Needs;

/// The paths that Landlock leaves open.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths {
    /// Where files can be read, without links.
    read: Vec<PathBuf>,
    /// Where they can be read and written, without links.
    write: Vec<PathBuf>,
    /// Paths of the config of the start. Another config is not refused because one of them was missing then.
    known: BTreeSet<PathBuf>,
}

impl Paths {
    /// The paths of `needs`, which Landlock opens now, and those of `config`, which has these needs.
    pub(super) fn of(needs: &Needs, config: &Config) -> Self {
        // A missing path has no rule.
        let open = |path: &PathBuf| path.canonicalize().ok();
        let contracts = config.contracts();
        let known = contracts.iter().flat_map(|(_, _, contract)| {
            let writes = contract.writes.iter();
            writes.chain(reads(contract)).cloned()
        });
        Self {
            read: READ
                .iter()
                .map(PathBuf::from)
                .chain(needs.read.iter().cloned())
                .filter_map(|path| open(&path))
                .collect(),
            write: needs.write.iter().filter_map(open).collect(),
            known: known.collect(),
        }
    }

    /// Checks that what `config` reads and writes is open.
    ///
    /// # Errors
    /// The first path that is not, with its key.
    pub(super) fn check(&self, config: &Config) -> Result<(), ConfigErrors> {
        for (kind, id, contract) in config.contracts() {
            let closed = |uses: &str, path: &Path| {
                let owned = contract.owns.iter().find(|place| place.path.starts_with(path));
                let keys = owned.into_iter().flat_map(|place| place.key.split('.'));
                let key: Vec<_> = [kind.section(), id.as_str()].into_iter().chain(keys).collect();
                let message = format!(
                    "{uses} {}, which the sandbox has closed since the start; hint: restart flowtap",
                    path.display()
                );
                config.error_at(&key, &message)
            };
            let beneath = |open: &[PathBuf], path: &Path| {
                let place = place(path);
                open.iter().any(|open| place.starts_with(open))
            };
            for path in contract.writes.iter().filter(|path| !self.known.contains(*path)) {
                if !beneath(&self.write, path) {
                    return Err(closed("writes to", path));
                }
            }
            for path in reads(&contract).filter(|path| !self.known.contains(*path)) {
                // Of one that is missing its component has the better message.
                if path.exists() && !beneath(&self.read, path) && !beneath(&self.write, path) {
                    return Err(closed("reads", path));
                }
            }
        }
        Ok(())
    }
}

fn reads(contract: &Contract) -> impl Iterator<Item = &PathBuf> {
    contract.reads.iter().chain(&contract.proc_root)
}

/// Where `path` is, or will be: without links, as far as it exists.
fn place(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for existing in absolute.ancestors() {
        if let Ok(place) = existing.canonicalize() {
            let rest = absolute.strip_prefix(existing).unwrap_or(Path::new(""));
            return place.join(rest);
        }
    }
    absolute
}

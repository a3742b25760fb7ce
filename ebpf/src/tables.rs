//! Tables of connections that grow: maps can't, so a reload adds a larger one before those that are in use (`bpf/control.h`).

use crate::error::LoadError;
use crate::sharing::SharedMaps;
use crate::table_names::{MAX_OLDER, TableNames};

/// The limit that a config may set. With it [`MAX_OLDER`] tables are enough for any number of reloads.
pub const MAX_SOCKETS: u32 = 1 << 24;

/// Least size of a table that is added.
const LEAST_ADDED: u32 = 1 << 16;

/// Tables that the programs of an object use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tables {
    /// Size of the newest.
    capacity: u32,
    /// For each older table, the newest first, the name that it has in the object before, from which it is taken.
    older: Vec<&'static str>,
    /// Whether the newest is not in the object before.
    is_new: bool,
}

impl Tables {
    /// One table, which no other object has.
    pub(crate) const fn first(capacity: u32) -> Self {
        Self {
            capacity,
            older: Vec::new(),
            is_new: true,
        }
    }

    /// Size of the newest.
    pub(crate) const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Number of older tables.
    pub(crate) fn older(&self) -> u32 {
        u32::try_from(self.older.len()).unwrap_or(u32::MAX)
    }

    /// Whether the programs before these lack the newest table.
    pub(crate) const fn is_added(&self, has_predecessor: bool) -> bool {
        self.is_new && has_predecessor
    }

    /// The tables of the next object: these, or one more where these have no room for `entries`. Older tables without an entry
    /// are left out; nothing is added to them any more.
    ///
    /// # Errors
    /// The error of the kernel; or that there are too many tables, which takes a limit beyond [`MAX_SOCKETS`].
    pub(crate) fn next(
        &self,
        names: &TableNames,
        maps: &SharedMaps,
        entries: u32,
    ) -> Result<Self, LoadError> {
        let system = |source| LoadError::System {
            what: "looking for entries of older tables",
            source,
        };
        let mut older = Vec::with_capacity(MAX_OLDER);
        for &name in names.older.iter().take(self.older.len()) {
            if !maps.is_empty(name).map_err(system)? {
                older.push(name);
            }
        }
        if entries <= self.capacity {
            return Ok(Self {
                capacity: self.capacity,
                older,
                is_new: false,
            });
        }
        let capacity = added_capacity(self.capacity, entries, older.len());
        older.insert(0, names.newest);
        if older.len() > MAX_OLDER {
            return Err(system(std::io::Error::other("too many tables are in use")));
        }
        Ok(Self {
            capacity,
            older,
            is_new: true,
        })
    }

    /// Pairs of a table's name in this object and that in the object before, for those that both have.
    pub(crate) fn shared(&self, names: &TableNames) -> Vec<(&'static str, &'static str)> {
        let newest = (!self.is_new).then_some((names.newest, names.newest));
        let older = names.older.into_iter().zip(self.older.iter().copied());
        newest.into_iter().chain(older).collect()
    }
}

/// Times that a table that is added is at least as large as the one before, by the number of older tables that have entries: so
/// that their number has a bound. No more than that, as a scan looks at every place of a table.
const STEPS: [u32; MAX_OLDER] = [1, 1, 2, 4, 8, 8];

/// Size of a table that is added because one of `capacity` has no room for `entries`.
fn added_capacity(capacity: u32, entries: u32, older: usize) -> u32 {
    let step = STEPS.get(older).copied().unwrap_or(8);
    let stepped = capacity.saturating_mul(step).min(MAX_SOCKETS);
    stepped.max(entries).max(LEAST_ADDED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_series_of_reloads_within_the_limit_needs_more_tables_than_there_are() {
        // Each reload asks for one entry more than there is room for, and no table ever empties.
        for start in [1, 1000, 1 << 16, 1 << 20] {
            let (mut capacity, mut older) = (start, 0);
            while capacity < MAX_SOCKETS {
                capacity = added_capacity(capacity, capacity + 1, older);
                older += 1;
                assert!(
                    older <= MAX_OLDER,
                    "from {start}: {capacity} with {older} older tables"
                );
            }
        }
    }
}

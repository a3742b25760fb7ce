//! Names of the maps that are tables of connections.

/// Older tables that the programs can search (`EACH_OLDER_TABLE`).
pub(crate) const MAX_OLDER: usize = 6;

/// Names of the maps of one object that are tables of connections.
#[derive(Debug)]
pub(crate) struct TableNames {
    pub(crate) newest: &'static str,
    pub(crate) older: [&'static str; MAX_OLDER],
}

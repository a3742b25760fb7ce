//! The file of requests: one table of redb.

use std::io;
use std::path::Path;

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use super::value::items_of;
use crate::push::Lane;

/// Requests by number, in the order in which they came: see [`encode`](super::value::encode).
pub(super) const REQUESTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("requests");

/// redb stores a value in separate pages, a power of two of these bytes, with some of them for
/// itself.
pub(super) const PAGE_BYTES: u64 = 4096;
const PAGE_OVERHEAD: u64 = 64;

/// Memory for the file's cache.
const CACHE_BYTES: usize = 1 << 20;

pub(super) fn open(path: &Path) -> Result<Database, DatabaseError> {
    Database::builder().set_cache_size(CACHE_BYTES).create(path)
}

/// Requests that are copied at a time: each batch is written to the disk.
const COPIED: usize = 64;

/// Writes the requests of `database` to a new file at `path`.
pub(super) fn copy(database: &Database, path: &Path) -> Result<Database, redb::Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let copy = open(path)?;
    let table = database.begin_read()?.open_table(REQUESTS)?;
    let mut requests = table.iter()?.peekable();
    loop {
        let transaction = copy.begin_write()?;
        let mut to = transaction.open_table(REQUESTS)?;
        for request in requests.by_ref().take(COPIED) {
            let (number, value) = request?;
            to.insert(number.value(), value.value())?;
        }
        drop(to);
        transaction.commit()?;
        if requests.peek().is_none() {
            return Ok(copy);
        }
    }
}

/// Calls `each` with the number and the value of every request.
pub(super) fn each_value(database: &Database, mut each: impl FnMut(u64, &[u8])) -> Result<(), redb::Error> {
    for entry in database.begin_read()?.open_table(REQUESTS)?.iter()? {
        let (number, value) = entry?;
        each(number.value(), value.value());
    }
    Ok(())
}

/// Whether an error is about the content of the file, not about the disk or another process.
pub(super) fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::RepairAborted
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. } => true,
        redb::Error::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
        ),
        _ => false,
    }
}

/// The oldest request of `lane` whose number is `from` or higher.
pub(super) fn oldest(
    database: &Database,
    from: u64,
    lane: Lane,
) -> Result<Option<(u64, Vec<u8>)>, redb::Error> {
    let transaction = database.begin_read()?;
    let table = transaction.open_table(REQUESTS)?;
    for entry in table.range(from..)? {
        let (number, value) = entry?;
        if lane.is_none_or(|kind| items_of(value.value()).0 == kind) {
            return Ok(Some((number.value(), value.value().to_vec())));
        }
    }
    Ok(None)
}

/// The next number, how many requests there are, and the bytes that they take up.
pub(super) fn count(database: &Database) -> Result<(u64, u64, u64), redb::Error> {
    // Created if it is missing, so that reading it never fails for want of it.
    let transaction = database.begin_write()?;
    transaction.open_table(REQUESTS)?;
    transaction.commit()?;
    let (mut next, mut items, mut bytes) = (0, 0, 0);
    for entry in database.begin_read()?.open_table(REQUESTS)?.iter()? {
        let (number, value) = entry?;
        next = number.value() + 1;
        items += 1;
        bytes += footprint(value.value().len());
    }
    Ok((next, items, bytes))
}

/// Bytes that a value uses in the file.
pub(super) const fn footprint(value_len: usize) -> u64 {
    let bytes = value_len as u64 + PAGE_OVERHEAD;
    if bytes < PAGE_BYTES {
        PAGE_BYTES
    } else {
        bytes.next_power_of_two()
    }
}

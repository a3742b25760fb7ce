//! A family of a scrape, and how much of a scrape is written at once.

use flowtap_pipeline::Family;

/// A chunk is handed out once it is this long.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;

/// A family, and where its points are.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) family: &'static Family,
    /// Name of its samples.
    pub(super) name: String,
    pub(super) places: Vec<Place>,
}

/// Where points of a metric are.
#[derive(Debug)]
pub(super) struct Place {
    /// Index of the snapshot.
    pub(super) snapshot: usize,
    /// Index of the family in it.
    pub(super) index: usize,
    /// The family there: in another pipeline one of the same name may have other buckets.
    pub(super) family: &'static Family,
    /// `le="..."} ` of each bucket, if it has any.
    pub(super) bounds: Vec<String>,
}

//! API objects in YAML or JSON: several documents in a file, lists within them.
//!
//! Policies are checked as strictly as the API server does: an unknown key is an error, because a policy with a misspelt one
//! would allow or deny something else. Of other objects only the keys that matter are read, and in files checked.

mod among;
mod decode;
mod document;
mod labels;
mod metadata;
pub(crate) mod names;
mod object_checks;
mod objects;
mod policies;
mod violation;

pub use self::among::{PoliciesAmong, policies_among};
pub use self::document::{ManifestError, to_yaml};
pub use self::names::is_namespace;
pub use self::objects::{objects, objects_among, objects_of, starts_of};
pub use self::policies::policies;
pub use self::violation::Violation;

#[cfg(test)]
mod tests;

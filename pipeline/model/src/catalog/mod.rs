//! The metric catalogue: every family that a window can fill, and every label that a series can have.
//!
//! The window, the live view, `flowtap explain` and the generated references all read it; nothing else states a family's name,
//! unit or labels.

mod definition;
mod entry;
mod families;
mod label;

pub use self::definition::Definition;
pub use self::families::{FAMILIES, FamilyId};
pub use self::label::{Label, LabelSet};

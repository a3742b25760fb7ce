//! Where an address is, as geographical databases know it.

/// Network operator and country of an address. Unknown fields are 0 or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// Number of the autonomous system (RFC 6793).
    pub asn: u32,
    /// Organisation that operates it.
    pub as_org: String,
    /// Country, as a code of ISO 3166-1 with two letters.
    pub country: String,
}

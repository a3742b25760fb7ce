//! Names as answers keep them.

/// Bytes of a name that are kept. The longest that a cluster, DNS or the kernel gives is shorter; in a file that somebody made it can be of
/// any length.
pub(super) const MAX_NAME: usize = 384;

/// The part of a name that is kept.
pub(super) fn kept(name: &str) -> &str {
    let mut end = name.len().min(MAX_NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_between_characters() {
        assert_eq!(kept("web"), "web");
        assert_eq!(kept(&"x".repeat(1000)).len(), MAX_NAME);
        let cut = "€".repeat(1000);
        assert_eq!(kept(&cut).len(), MAX_NAME / 3 * 3);
        let shifted = format!("x{cut}");
        assert_eq!(kept(&shifted).len(), (MAX_NAME - 1) / 3 * 3 + 1);
    }
}

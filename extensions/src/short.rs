//! Numbers for people: three digits and a unit.

/// Three digits and a unit, in at most seven characters: `1.23 kB`.
pub fn short_bytes(bytes: f64) -> String {
    scaled(bytes, &[" B", " kB", " MB", " GB", " TB", " PB"])
}

/// `850us`, `1.23ms`, `12.3s`.
pub fn short_time(microseconds: f64) -> String {
    scaled(microseconds, &["us", "ms", "s"])
}

/// `999`, `1.23k`.
pub fn short_count(count: u64) -> String {
    scaled(count as f64, &["", "k", "M", "G", "T", "P"])
}

/// A count with its noun: `1 packet`, `2 packets`.
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn scaled(mut value: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // A value that would be rounded to 1000 is one of the next unit.
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{}", units[unit])
}

//! Sizes in bytes as written in a spec: `5GB`, `512MiB`.

const UNITS: [(&str, u64); 6] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
];

/// Parses a whole number and a unit.
pub fn parse(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, bytes) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*bytes)
}

/// Formats a size, which came from [`parse`], in the largest unit that divides it.
pub(super) fn write(bytes: u64) -> String {
    let fits = |(_, unit): &&(&str, u64)| bytes.is_multiple_of(*unit);
    let largest = UNITS.iter().filter(fits).max_by_key(|(_, unit)| *unit);
    largest.map_or_else(|| format!("{bytes}B"), |(name, unit)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_trip() {
        for text in ["5GB", "1GiB", "512MiB", "750MB", "3KB", "7KiB"] {
            assert_eq!(write(parse(text).expect(text)), text);
        }
        assert_eq!(parse("5 GB"), parse("5GB"));
        assert_eq!(parse("1GiB"), Some(1 << 30));
    }

    #[test]
    fn text_without_a_number_or_a_unit_is_refused() {
        for text in
            ["", "5", "GB", "-5GB", "5gigs", "5.5GB", "99999999999999999999GB", "20000000000GB"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}

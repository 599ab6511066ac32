//! Resource quantities: `500m`, `2Gi`, `1e3`.
//!
//! Values are kept in thousandths, rounded up as `Quantity.MilliValue` does. Magnitudes are clamped to about 1.7e35.

use std::fmt;

use serde_json::Value;

/// An amount of a resource, in thousandths of its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Quantity(i128);

const SUFFIXES: &[(&str, i128, i128)] = &[
    // (suffix, numerator, denominator) relative to one unit
    ("n", 1, 1_000_000_000),
    ("u", 1, 1_000_000),
    ("m", 1, 1_000),
    ("", 1, 1),
    ("k", 1_000, 1),
    ("M", 1_000_000, 1),
    ("G", 1_000_000_000, 1),
    ("T", 1_000_000_000_000, 1),
    ("P", 1_000_000_000_000_000, 1),
    ("E", 1_000_000_000_000_000_000, 1),
    ("Ki", 1 << 10, 1),
    ("Mi", 1 << 20, 1),
    ("Gi", 1 << 30, 1),
    ("Ti", 1 << 40, 1),
    ("Pi", 1 << 50, 1),
    ("Ei", 1 << 60, 1),
];

impl Quantity {
    /// An integral amount.
    pub(crate) fn whole(units: i64) -> Self {
        Self(i128::from(units) * 1000)
    }

    /// Parses a quantity; `None` when the text is not one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let number_end = text
            .char_indices()
            .find(|(at, c)| {
                !(c.is_ascii_digit() || *c == '.' || (*at == 0 && (*c == '+' || *c == '-')))
            })
            .map_or(text.len(), |(at, _)| at);
        let (number, suffix) = text.split_at(number_end);
        let (numerator, denominator) = scale(suffix)?;
        let negative = number.starts_with('-');
        let digits = number.trim_start_matches(['+', '-']);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty())
            || fraction.contains('.')
            || fraction.len() > 15
        {
            return None;
        }
        let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
        let fraction_scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
        let scaled = mantissa.checked_mul(1000)?.checked_mul(numerator)?;
        let divisor = denominator.checked_mul(fraction_scale)?;
        let milli = (scaled + divisor - 1).div_euclid(divisor);
        Some(Self(if negative { -milli } else { milli }))
    }

    /// Parses a JSON string or number.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Self::parse(text),
            Value::Number(number) => Self::parse(&number.to_string()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    pub(crate) fn is_negative(self) -> bool {
        self.0 < 0
    }

    pub(crate) fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether the amount has no fraction of a unit.
    pub(crate) fn is_integral(self) -> bool {
        self.0 % 1000 == 0
    }

    /// Thousandths of a unit.
    pub(crate) fn milli(self) -> i128 {
        self.0
    }
}

/// The form in which the API server writes a quantity: no fraction, and the largest suffix that allows that.
///
/// Texts with an exponent, and amounts below a thousandth, are kept as they are.
pub(crate) fn canonical(text: &str) -> Option<String> {
    const DECIMAL: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let Quantity(milli) = Quantity::parse(text)?;
    let has_exponent = text.contains('e')
        || text.trim_end_matches(|c: char| c.is_ascii_digit()) != text && text.contains('E');
    if text.ends_with(['n', 'u']) || has_exponent {
        return Some(text.to_owned());
    }
    if milli % 1000 != 0 {
        return Some(format!("{milli}m"));
    }
    let (base, suffixes) = if text.ends_with('i') { (1024, BINARY) } else { (1000, DECIMAL) };
    let mut units = milli / 1000;
    let mut step = 0;
    while units != 0 && units % base == 0 && step + 1 < suffixes.len() {
        units /= base;
        step += 1;
    }
    Some(format!("{units}{}", suffixes[step]))
}

impl std::ops::Add for Quantity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::default(), |total, amount| total + amount)
    }
}

impl fmt::Display for Quantity {
    /// Writes whole binary multiples with their suffix, other whole amounts plainly and fractions in thousandths.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_integral() {
            return write!(f, "{}m", self.0);
        }
        let units = self.0 / 1000;
        let binary = [("Gi", 1_i128 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
        match binary.iter().find(|(_, size)| units != 0 && units % size == 0) {
            Some((suffix, size)) => write!(f, "{}{suffix}", units / size),
            None => write!(f, "{units}"),
        }
    }
}

fn scale(suffix: &str) -> Option<(i128, i128)> {
    if let Some((_, numerator, denominator)) = SUFFIXES.iter().find(|(name, _, _)| *name == suffix)
    {
        return Some((*numerator, *denominator));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = 10_i128.checked_pow(exponent.unsigned_abs()).filter(|_| exponent.abs() <= 18)?;
    Some(if exponent < 0 { (1, power) } else { (power, 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_parse_as_kubernetes_parses_them() {
        let cases = [
            ("1", Some(1000)),
            ("500m", Some(500)),
            ("0.5", Some(500)),
            (".5", Some(500)),
            ("1Ki", Some(1_024_000)),
            ("1k", Some(1_000_000)),
            ("1e3", Some(1_000_000)),
            ("1E-3", Some(1)),
            ("100n", Some(1)),
            ("-2", Some(-2000)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("", None),
            ("Gi", None),
            ("1 Gi", None),
            ("1gi", None),
            ("1.2.3", None),
            ("abc", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Quantity::parse(text).map(Quantity::milli), expected, "{text}");
        }
    }

    #[test]
    fn quantities_are_written_in_their_canonical_form() {
        let cases = [
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1000", "1k"),
            ("64", "64"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0", "0"),
            ("1e3", "1e3"),
            ("2E", "2E"),
        ];
        for (text, expected) in cases {
            assert_eq!(canonical(text).as_deref(), Some(expected), "{text}");
        }
    }
}

//! Durations in a spec: `30m`, `90s`, `2h`.

use serde::{Deserialize, Deserializer, Serializer, de};
use std::time::Duration;
use thiserror::Error;

const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

/// A text that is not a duration.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("expected a time such as `30m`, `90s` or `2h`, got `{0}`")]
pub struct Malformed(String);

/// Parses a whole number and a unit.
///
/// # Errors
/// [`Malformed`] for any other text.
pub fn parse(text: &str) -> Result<Duration, Malformed> {
    let span = || {
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
        let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
        Some(Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(*seconds)?))
    };
    span().ok_or_else(|| Malformed(text.to_owned()))
}

/// Formats a duration of whole seconds in the largest unit that divides it.
fn write(span: Duration) -> String {
    let seconds = span.as_secs();
    let (name, unit) = UNITS
        .iter()
        .find(|(_, unit)| seconds > 0 && seconds.is_multiple_of(*unit))
        .unwrap_or(&("s", 1));
    format!("{}{name}", seconds / unit)
}

pub(super) fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&write(*span))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_trip() {
        for text in ["0s", "90s", "30m", "2h", "3d"] {
            assert_eq!(write(parse(text).expect(text)), text);
        }
        assert_eq!(parse("60m"), parse("1h"));
        assert_eq!(parse("5 m"), parse("5m"));
    }

    #[test]
    fn text_without_a_number_or_a_unit_is_refused() {
        for text in
            ["", "5", "m", "-5m", "5min", "1.5h", "99999999999999999999s", "999999999999999999d"]
        {
            assert_eq!(parse(text), Err(Malformed(text.to_owned())));
        }
    }
}

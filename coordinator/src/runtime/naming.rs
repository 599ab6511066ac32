//! Names of runs.

use proto::id::{self, RunId};
use proto::spec::Spec;

/// A fresh name: the spec's name, the time, and a random suffix that tells apart runs of the same second.
pub(crate) fn fresh(spec: &Spec) -> RunId {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = since.unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days.try_into().unwrap_or(0));
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    let mark = &id::unique()[..4];
    RunId::new(format!("{}-{year:04}{month:02}{day:02}-{h:02}{m:02}{s:02}-{mark}", spec.name()))
}

/// Year, month and day of a day counted from 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_converted_to_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_778), (2026, 11, 21));
    }
}

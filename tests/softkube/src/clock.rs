//! Cluster time: real, accelerated, or moved by the test.
//!
//! Everything in the cluster that waits (back-off, toleration seconds, TTLs, graceful deletion) waits on this clock.
//! Timestamps on objects come from it too, so an accelerated cluster shows consistent times.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

const MICROS_PER_SECOND: u64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// A moment of cluster time, in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

impl Time {
    /// The moment `seconds` after the Unix epoch.
    pub fn from_seconds(seconds: u64) -> Self {
        Self(seconds * MICROS_PER_SECOND)
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub fn seconds(self) -> u64 {
        self.0 / MICROS_PER_SECOND
    }

    /// The moment `duration` later.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }

    /// The moment `duration` earlier, not before the epoch.
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }

    /// The time elapsed since `earlier`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// RFC 3339 in whole seconds, the format of `metav1.Time`.
    pub fn rfc3339(self) -> String {
        format!("{}Z", self.civil())
    }

    /// RFC 3339 with microseconds, the format of `metav1.MicroTime`.
    pub fn rfc3339_micro(self) -> String {
        format!("{}.{:06}Z", self.civil(), self.0 % MICROS_PER_SECOND)
    }

    /// Parses RFC 3339 in UTC or with a numeric offset; fractions below a microsecond are dropped.
    pub fn parse(text: &str) -> Option<Self> {
        let (date, rest) = text.split_once(['T', 't'])?;
        let mut fields = date.splitn(3, '-').map(|field| field.parse::<i64>().ok());
        let (year, month, day) = (fields.next()??, fields.next()??, fields.next()??);
        let zone_at = rest.find(['Z', 'z', '+', '-'])?;
        let (clock, zone) = rest.split_at(zone_at);
        let (whole, fraction) = clock.split_once('.').unwrap_or((clock, ""));
        let mut fields = whole.splitn(3, ':').map(|field| field.parse::<i64>().ok());
        let (hour, minute, second) = (fields.next()??, fields.next()??, fields.next()??);
        if !(1..=12).contains(&month)
            || !(1..=31).contains(&day)
            || hour > 24
            || minute > 59
            || second > 60
        {
            return None;
        }
        let offset = parse_offset(zone)?;
        let days = days_from_civil(year, month, day);
        let seconds = days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second - offset;
        let padded = format!("{fraction:0<6}");
        let micros = padded.get(..6)?.parse::<u64>().ok()?;
        Some(Self(u64::try_from(seconds).ok()? * MICROS_PER_SECOND + micros))
    }

    fn civil(self) -> String {
        let seconds = i64::try_from(self.seconds()).unwrap_or(i64::MAX);
        let (year, month, day) = civil_from_days(seconds.div_euclid(SECONDS_PER_DAY));
        let second = seconds.rem_euclid(SECONDS_PER_DAY);
        let (hour, minute) = (second / 3600, second / 60 % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}", second % 60)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

fn parse_offset(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    Some(sign * (hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60))
}

/// Days since the epoch of a proleptic Gregorian date (H. Hinnant, "chrono-compatible low-level date algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// How cluster time relates to real time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockMode {
    /// One second a second.
    Real,
    /// The given number of cluster seconds in each real second.
    Accelerated(u32),
    /// Time stands still until [`Clock::advance`] is called.
    Manual,
}

/// The cluster's clock. Clones share their time.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mode: ClockMode,
    started: Instant,
    origin: Time,
    advanced: Mutex<Duration>,
    ticks: watch::Sender<u64>,
}

impl Clock {
    /// A clock that starts at the current wall-clock time.
    pub fn new(mode: ClockMode) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(Arc::new(Inner {
            mode,
            started: Instant::now(),
            origin: Time::default().after(since_epoch),
            advanced: Mutex::new(Duration::ZERO),
            ticks: watch::Sender::new(0),
        }))
    }

    /// The current cluster time.
    pub fn now(&self) -> Time {
        let advanced = *self.0.advanced.lock().expect("no holder of the clock's lock panics");
        let elapsed = self.0.started.elapsed();
        let elapsed = match self.0.mode {
            ClockMode::Real => elapsed,
            ClockMode::Accelerated(factor) => elapsed * factor,
            ClockMode::Manual => Duration::ZERO,
        };
        self.0.origin.after(elapsed + advanced)
    }

    /// Moves cluster time forward by `duration`, in any mode.
    pub fn advance(&self, duration: Duration) {
        *self.0.advanced.lock().expect("no holder of the clock's lock panics") += duration;
        self.0.ticks.send_modify(|ticks| *ticks += 1);
    }

    /// Waits until cluster time reaches `deadline`.
    pub async fn sleep_until(&self, deadline: Time) {
        let mut ticks = self.0.ticks.subscribe();
        loop {
            let now = self.now();
            if now >= deadline {
                return;
            }
            let left = deadline.since(now);
            let real = match self.0.mode {
                ClockMode::Real => Some(left),
                ClockMode::Accelerated(factor) => {
                    Some(left / factor.max(1) + Duration::from_micros(1))
                }
                ClockMode::Manual => None,
            };
            match real {
                Some(real) => {
                    tokio::select! {
                        () = tokio::time::sleep(real) => {}
                        _ = ticks.changed() => {}
                    }
                }
                None => {
                    if ticks.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Waits for `duration` of cluster time.
    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.now().after(duration)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip_through_rfc3339() {
        for text in ["1970-01-01T00:00:00Z", "2000-02-29T23:59:59Z", "2025-12-31T12:34:56Z"] {
            assert_eq!(Time::parse(text).map(Time::rfc3339).as_deref(), Some(text));
        }
        let with_offset = Time::parse("2025-01-01T02:30:00.250000+02:30").unwrap();
        assert_eq!(with_offset.rfc3339_micro(), "2025-01-01T00:00:00.250000Z");
        assert_eq!(Time::parse("yesterday"), None);
    }

    #[tokio::test]
    async fn a_manual_clock_moves_only_when_advanced() {
        let clock = Clock::new(ClockMode::Manual);
        let before = clock.now();
        assert_eq!(clock.now(), before);
        let deadline = before.after(Duration::from_secs(60));
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(deadline).await }
        });
        clock.advance(Duration::from_secs(61));
        sleeper.await.unwrap();
        assert_eq!(clock.now().since(before), Duration::from_secs(61));
    }
}

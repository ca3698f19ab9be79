//! Time as a parameter, so that a test can hold it still.

use std::fmt;

/// An instant of UTC with microsecond resolution, as stored and as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The latest instant that RFC 3339 can write: 9999-12-30T22:00:00Z (the bound of the calendar library).
    pub const MAX: Self = Self(253_402_207_200_000_000);

    /// From microseconds since the Unix epoch; values outside years 1–9999 are brought to the nearest bound.
    pub fn from_micros(micros: i64) -> Self {
        Self(micros.clamp(-62_135_596_800_000_000, Self::MAX.0))
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since the Unix epoch, never negative.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.div_euclid(1000)).unwrap_or(0)
    }

    /// Whole seconds since the Unix epoch and the nanoseconds after them, as `google.protobuf.Timestamp` wants.
    pub fn as_seconds_and_nanos(self) -> (i64, i32) {
        let nanos = self.0.rem_euclid(1_000_000) * 1000;
        (self.0.div_euclid(1_000_000), i32::try_from(nanos).unwrap_or(0))
    }

    /// This instant and `duration` more; the latest instant if that is further than the calendar goes.
    pub fn saturating_add(self, duration: std::time::Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.0.saturating_add(micros))
    }

    /// The time from `earlier` to this instant; zero if `earlier` is later.
    pub fn saturating_since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// RFC 3339 in UTC with as many fractional digits as are needed.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(timestamp) => fmt::Display::fmt(&timestamp, f),
            Err(_) => Err(fmt::Error),
        }
    }
}

/// Where the time comes from.
pub trait Clock: Send + Sync + 'static {
    /// The present instant.
    fn now(&self) -> Timestamp;
}

/// The machine's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        let micros = match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |m| -m),
        };
        Timestamp::from_micros(micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_reads_as_rfc_3339() {
        assert_eq!(Timestamp::from_micros(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Timestamp::from_micros(1_700_000_000_123_456).to_string(), "2023-11-14T22:13:20.123456Z");
    }

    #[test]
    fn every_timestamp_can_be_written() {
        for micros in [i64::MIN, -1, 0, i64::MAX] {
            let timestamp = Timestamp::from_micros(micros);
            assert!(timestamp.to_string().ends_with('Z'), "{micros}");
        }
    }

    #[test]
    fn seconds_and_nanos_are_those_of_the_instant_before_the_epoch_too() {
        assert_eq!(Timestamp::from_micros(-1).as_seconds_and_nanos(), (-1, 999_999_000));
        assert_eq!(Timestamp::from_micros(1_500_000).as_seconds_and_nanos(), (1, 500_000_000));
    }
}

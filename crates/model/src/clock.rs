//! Timestamps, and the clock as a parameter, so that tests can set the time.

use std::fmt;

/// An instant of UTC in microseconds, as stored and as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The latest instant: 9999-12-30T22:00:00Z, the bound of the calendar library.
    pub const MAX: Self = Self(253_402_207_200_000_000);
    /// The earliest instant that RFC 3339 can write: 0001-01-01T00:00:00Z.
    pub const MIN: Self = Self(-62_135_596_800_000_000);

    /// From microseconds since the Unix epoch. A value outside the years 1–9999 is clamped.
    pub fn from_micros(micros: i64) -> Self {
        Self(micros.clamp(Self::MIN.0, Self::MAX.0))
    }

    /// From microseconds since the Unix epoch; none outside [`Timestamp::MIN`] and [`Timestamp::MAX`].
    pub fn checked(micros: i64) -> Option<Self> {
        (Self::MIN.0..=Self::MAX.0).contains(&micros).then_some(Self(micros))
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since the Unix epoch, never negative.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.div_euclid(1000)).unwrap_or(0)
    }

    /// Whole seconds since the Unix epoch and the nanoseconds after them, as in `google.protobuf.Timestamp`.
    pub fn as_seconds_and_nanos(self) -> (i64, i32) {
        let nanos = self.0.rem_euclid(1_000_000) * 1000;
        (self.0.div_euclid(1_000_000), i32::try_from(nanos).unwrap_or(0))
    }

    /// This instant plus `duration`, at most [`Timestamp::MAX`].
    pub fn saturating_add(self, duration: std::time::Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.0.saturating_add(micros))
    }

    /// The time from `earlier` to this instant; zero if `earlier` is later.
    pub fn saturating_since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// RFC 3339 in UTC, always with six fractional digits. So texts sort as their instants, and every text has a number of
/// digits that the common parsers accept.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

/// A timestamp in the text of RFC 3339, such as `2023-11-14T22:13:20.123456Z`.
///
/// Written by hand because a response of List has a hundred of them: the calendar library's formatter shows in `cargo xtask instructions` (`list`).
#[derive(Clone, Copy)]
pub struct TimestampText([u8; "2023-11-14T22:13:20.123456Z".len()]);

impl TimestampText {
    /// The text.
    pub fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The text, which is ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Timestamp {
    /// The instant of a text that [`Timestamp::text`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
        let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
        // Howard Hinnant's `days_from_civil`, the inverse of `civil`.
        let shifted = if month <= 2 { year - 1 } else { year };
        let (era, year_of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        let seconds = days * 86_400 + digits(11, 13)? * 3600 + digits(14, 16)? * 60 + digits(17, 19)?;
        let found = Self::checked(seconds * 1_000_000 + digits(20, 26)?)?;
        (found.text().as_str() == text).then_some(found)
    }

    /// The text of RFC 3339.
    pub fn text(self) -> TimestampText {
        const DAY: i64 = 24 * 60 * 60 * 1_000_000;
        let (year, month, day) = civil(self.0.div_euclid(DAY));
        let micros = self.0.rem_euclid(DAY);
        let (seconds, fraction) = (small(micros / 1_000_000), small(micros % 1_000_000));
        let mut bytes = *b"0000-00-00T00:00:00.000000Z";
        let mut put = |at: usize, pair: u32| {
            bytes[at..at + 2].copy_from_slice(&PAIRS[pair as usize % PAIRS.len()]);
        };
        put(0, year / 100);
        put(2, year);
        put(5, month);
        put(8, day);
        put(11, seconds / 3600);
        put(14, seconds / 60 % 60);
        put(17, seconds % 60);
        put(20, fraction / 10_000);
        put(22, fraction / 100);
        put(24, fraction);
        TimestampText(bytes)
    }
}

/// The digits are written in pairs, which takes half of the divisions.
const PAIRS: [[u8; 2]; 100] = {
    let (mut pairs, mut number) = ([[0; 2]; 100], 0_u8);
    while number < 100 {
        pairs[number as usize] = [b'0' + number / 10, b'0' + number % 10];
        number += 1;
    }
    pairs
};

/// Days since the year 0, or a part of a day. Neither is negative or above 2³².
fn small(number: i64) -> u32 {
    number as u32
}

/// Year, month and day of the proleptic Gregorian calendar from days since the Unix epoch, for the years 1 to 9999. Howard
/// Hinnant's `civil_from_days` (<https://howardhinnant.github.io/date_algorithms.html>).
fn civil(days: i64) -> (u32, u32, u32) {
    let days = small(days + 719_468);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u32::from(month <= 2), month, day)
}

/// A source of time.
pub trait Clock: Send + Sync + 'static {
    /// The current instant.
    fn now(&self) -> Timestamp;

    /// How far the machine's clock is behind this one, because it was set back.
    fn behind(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
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
    fn a_text_is_read_back_and_no_other_is() {
        for micros in [
            Timestamp::MIN.0,
            -1,
            0,
            951_782_399_999_999,
            951_782_400_000_000,
            1_700_000_000_123_456,
            Timestamp::MAX.0,
        ] {
            let at = Timestamp(micros);
            assert_eq!(Timestamp::parse(at.text().as_str()), Some(at));
        }
        for text in [
            "",
            "2023-11-14T22:13:20Z",
            "2023-02-30T22:13:20.000000Z",
            "2023-11-14T22:13:20.000000+",
            "2023-11-14T22:+3:20.000000Z",
            "ü023-11-14T22:13:20.000000Z",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_timestamp_reads_as_rfc_3339() {
        assert_eq!(Timestamp::from_micros(0).to_string(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(Timestamp::from_micros(1_700_000_000_123_456).to_string(), "2023-11-14T22:13:20.123456Z");
    }

    #[test]
    fn the_text_is_that_of_the_calendar_library() {
        let day = 24 * 60 * 60 * 1_000_000;
        let (first, last) = (Timestamp::from_micros(i64::MIN).as_micros(), Timestamp::MAX.as_micros());
        // Every day of the calendar, each at another time of day, and fractions of every length.
        let days = (first..=last).step_by(usize::try_from(day).expect("64 bits")).enumerate();
        let times = days.map(|(i, at)| at + i64::try_from(i).expect("few") * 7_919_017 % day);
        let fractions = [1, 10, 120, 1000, 123_000, 100_000, 999_999, 0, -1, -1_000_000, -999_990];
        for micros in times.chain(fractions).chain([first, last]) {
            let micros = micros.min(last);
            let expected = format!("{:.6}", jiff::Timestamp::from_microsecond(micros).expect("in bounds"));
            assert_eq!(Timestamp::from_micros(micros).to_string(), expected);
        }
    }

    #[test]
    fn a_timestamp_outside_the_calendar_is_clamped() {
        assert_eq!(Timestamp::from_micros(i64::MIN).to_string(), "0001-01-01T00:00:00.000000Z");
        assert_eq!(Timestamp::from_micros(i64::MAX).to_string(), "9999-12-30T22:00:00.000000Z");
    }

    #[test]
    fn seconds_and_nanos_are_those_of_the_instant_before_the_epoch_too() {
        assert_eq!(Timestamp::from_micros(-1).as_seconds_and_nanos(), (-1, 999_999_000));
        assert_eq!(Timestamp::from_micros(1_500_000).as_seconds_and_nanos(), (1, 500_000_000));
    }
}

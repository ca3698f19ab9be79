//! The progress of a long command, on a terminal: how much is done, and how long the rest takes.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use agentrouter_audit::Progress;
use tokio::time::Instant;

/// The time between two updates, and before the first: a short command shows nothing.
const PAUSE: Duration = Duration::from_millis(500);

/// The line on the terminal.
pub(crate) struct ProgressMeter {
    start: Instant,
    shown: Instant,
    is_terminal: bool,
    is_visible: bool,
    unit: Unit,
}

/// What the progress counts.
#[derive(Clone, Copy)]
enum Unit {
    Bytes,
    Keys,
}

impl Default for ProgressMeter {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            start: now,
            shown: now,
            is_terminal: std::io::stderr().is_terminal(),
            is_visible: false,
            unit: Unit::Bytes,
        }
    }
}

impl ProgressMeter {
    /// A meter of keys.
    pub(crate) fn of_keys() -> Self {
        Self { unit: Unit::Keys, ..Self::default() }
    }

    /// Updates the line, if standard error is a terminal.
    pub(crate) fn show(&mut self, progress: Progress) {
        if !self.is_terminal || self.shown.elapsed() < PAUSE {
            return;
        }
        self.shown = Instant::now();
        self.is_visible = true;
        // A closed standard error is no reason to fail.
        let _ = write!(std::io::stderr(), "\r\x1b[K{}", line(progress, self.unit, self.start.elapsed()));
    }

    /// Removes the line.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.is_visible) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(Progress { bytes, of }: Progress, unit: Unit, elapsed: Duration) -> String {
    let share = bytes as f64 / of.max(1) as f64;
    let left = elapsed.as_secs_f64() * (1.0 / share.clamp(1e-9, 1.0) - 1.0);
    let left = Duration::from_secs(left.round().min(1e6) as u64);
    let (scale, name) = match unit {
        Unit::Bytes => (20, "MiB"),
        Unit::Keys => (0, "keys"),
    };
    format!(
        "{:3.0} %  {} of {} {name}  {} left",
        share.min(1.0) * 100.0,
        bytes >> scale,
        of >> scale,
        humantime::format_duration(left)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_shows_the_share_and_the_remaining_time() {
        let at = |bytes: u64, seconds| {
            let progress = Progress { bytes: bytes << 20, of: 1000 << 20 };
            line(progress, Unit::Bytes, Duration::from_secs(seconds))
        };
        assert_eq!(at(250, 10), " 25 %  250 of 1000 MiB  30s left");
        assert_eq!(at(1000, 10), "100 %  1000 of 1000 MiB  0s left");
        // A log that grows meanwhile.
        assert_eq!(at(1100, 10), "100 %  1100 of 1000 MiB  0s left");
        assert!(at(0, 1).starts_with("  0 %  0 of 1000 MiB"));
        let keys = line(Progress { bytes: 25, of: 100 }, Unit::Keys, Duration::from_secs(10));
        assert_eq!(keys, " 25 %  25 of 100 keys  30s left");
    }
}

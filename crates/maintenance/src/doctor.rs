//! Examination of an instance, read-only: what is wrong, and what to do.
//!
//! It works beside a running server and without one, takes no lock and writes no file. (SQLite makes or rebuilds
//! `secrets.db-shm`, the index of its own log, when a database is opened that no other process has open.) A check that
//! depends on one that failed is left out.
//!
//! It prints one line a check, which begins with `ok`, `warn` or `FAIL`, and lines `hint:` below those that require an
//! action. They contain names and numbers of the program, and nothing of any secret.

mod contents;
#[cfg(test)]
mod database_writer;
mod files;
mod history;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use agentrouter_instance::admin::{self, Request, Response};
use agentrouter_instance::hint;
use agentrouter_instance::instance::SOCKET;
use agentrouter_instance::settings::Settings;
use agentrouter_model::{Clock as _, SystemClock, Timestamp};

/// Most lines of problems in one finding.
const LINES: usize = 10;

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// Nothing to do.
    Ok,
    /// It works, and needs attention.
    Warn,
    /// It does not work, or is not safe.
    Fail,
}

/// The finding of a check.
#[derive(Debug)]
struct Finding {
    level: Level,
    /// The subject of the check, in a word or two.
    what: &'static str,
    /// The finding. Further lines are details.
    text: String,
    /// What to do.
    hints: Vec<String>,
}

impl Finding {
    fn new(level: Level, what: &'static str, text: impl Into<String>) -> Self {
        Self { level, what, text: text.into(), hints: Vec::new() }
    }

    fn ok(what: &'static str, text: impl Into<String>) -> Self {
        Self::new(Level::Ok, what, text)
    }

    fn warn(what: &'static str, text: impl Into<String>) -> Self {
        Self::new(Level::Warn, what, text)
    }

    fn fail(what: &'static str, text: impl Into<String>) -> Self {
        Self::new(Level::Fail, what, text)
    }

    /// A failure with the text and the hints of an error and of its causes.
    fn error(what: &'static str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self { level: Level::Fail, what, text: hint::text(error), hints: hint::of(error) }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

/// How long before its expiry a certificate is reported.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The result of loading the certificate and its key: when it expires, if that is known.
type Loaded = anyhow::Result<Option<Timestamp>>;

/// Runs all checks and prints them. The exit code is 1 if one failed. `tls` is the result of loading the certificate
/// and key that the settings name, if they name any, and when the certificate expires: TLS is the server's.
///
/// # Errors
/// When the runtime cannot start or standard output cannot be written.
pub(crate) fn run(settings: &Settings, tls: Option<Loaded>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let findings = runtime.block_on(examine(settings, tls, SystemClock.now()));
    agentrouter_instance::terminal::data(&render(&findings))?;
    let failed = findings.iter().any(|finding| finding.level == Level::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn examine(settings: &Settings, tls: Option<Loaded>, now: Timestamp) -> Vec<Finding> {
    let dir = &settings.data_dir;
    if let Err(error) = dir.try_exists() {
        return vec![files::unreachable("data directory", dir, &error)];
    }
    if !dir.is_dir() {
        let text = format!("there is no directory {}", dir.display());
        let hint = "name the right one with --data-dir; 'serve' makes a new one";
        return vec![Finding::fail("data directory", text).hint(hint)];
    }
    let mut findings = vec![files::data_directory(dir), files::server(dir)];
    findings.extend(running(dir).await);
    findings.extend(files::space(dir));
    findings.push(files::clock(dir, now));
    findings.extend(tls.map(|loaded| match loaded {
        Ok(expires) => certificate(expires, now),
        Err(error) => Finding::error("TLS", &*error),
    }));
    findings.extend(settings.tls().and_then(|(_, key)| files::secret("TLS key", key)));
    contents::examine(settings, now, &mut findings).await;
    findings
}

/// Whether the running server can serve calls: it knows of files that changed beneath it. `None` without a server.
async fn running(dir: &Path) -> Option<Finding> {
    let what = "serving";
    let mut unshown = |_| ();
    match admin::send(dir, SOCKET, &Request::State, &mut unshown).await {
        Ok(None) => None,
        Ok(Some(Response::State { fault: None })) => Some(Finding::ok(what, "the server can serve calls")),
        Ok(Some(Response::State { fault: Some(fault) })) => Some(
            Finding::fail(what, format!("the server is not ready: {fault}"))
                .hint("see the server's log; docs/operations.md explains the reasons that /readyz gives"),
        ),
        Ok(Some(_)) => {
            Some(Finding::warn(what, "the server is of another version, and does not know this command"))
        }
        Err(error) => Some(Finding::error(what, &*error)),
    }
}

/// A certificate that loads, with its key.
fn certificate(expires: Option<Timestamp>, now: Timestamp) -> Finding {
    let what = "TLS";
    let text = "certificate and key load and belong together";
    let hint = "replace tls.cert and tls.key; the server reads them within a second";
    match expires {
        Some(end) if end <= now => {
            Finding::fail(what, format!("the certificate expired at {end}, so clients reject it")).hint(hint)
        }
        Some(end) if end.saturating_since(now) < SOON => {
            Finding::warn(what, format!("{text}; it expires at {end}")).hint(hint)
        }
        Some(end) => Finding::ok(what, format!("{text}; it expires at {end}")),
        None => Finding::ok(what, text),
    }
}

/// The findings in columns, and a summary line.
fn render(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or(0);
    let mut out = String::new();
    for Finding { level, what, text, hints } in findings {
        let level = match level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        // Writing to a string does not fail.
        let _ = writeln!(out, "{level:4}  {what:width$}  {first}");
        for line in lines {
            let _ = writeln!(out, "      {:width$}  {line}", "");
        }
        for hint in hints {
            let _ = writeln!(out, "      {:width$}  hint: {hint}", "");
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (warned, failed) = (count(Level::Warn), count(Level::Fail));
    let _ = match (warned, failed) {
        (0, 0) => writeln!(out, "all is well"),
        _ => writeln!(out, "{failed} failed, {warned} warning(s)"),
    };
    out
}

/// A heading and the first of the problems.
fn listed(heading: String, problems: Vec<String>) -> String {
    let more = problems.len().saturating_sub(LINES);
    let mut lines = vec![heading];
    lines.extend(problems.into_iter().take(LINES));
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_hints_stand_below() {
        let findings = [
            Finding::ok("a", "fine"),
            Finding::fail("audit log", "2 problems\none\ntwo").hint("do this"),
            Finding::warn("b", "so so"),
        ];
        assert_eq!(
            render(&findings),
            "ok    a          fine\n\
             FAIL  audit log  2 problems\n\
             \x20                one\n\
             \x20                two\n\
             \x20                hint: do this\n\
             warn  b          so so\n\
             1 failed, 1 warning(s)\n"
        );
        assert!(render(&findings[..1]).ends_with("\nall is well\n"));
    }
}

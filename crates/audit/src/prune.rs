//! Removal of the oldest files, with a signed note about it.
//!
//! The files are verified first, because they cannot be verified later. The note is on disk before the first file is
//! removed. A kill in between leaves files that the note covers. `verify` ignores them, and the next call or the next start
//! removes them.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use agentrouter_crypto::InternalKey;
use agentrouter_model::Timestamp;

use crate::base::{Base, Kind, NoteState};
use crate::checkpoint::Signer;
use crate::disk::{CURRENT, Retired, open_to_read, retired_files};
use crate::head::Memory;
use crate::scan::Tail;
use crate::ship;
use crate::verify::{Check, Problem};

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The number of files.
    pub files: u64,
    /// The last record that is removed, now or by earlier calls; 0 if none.
    pub last: u64,
    /// More files are old enough, and were not shipped yet.
    pub unshipped: bool,
}

/// Why no file was removed.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The files that would be removed have problems.
    #[error("the files to be removed have problems")]
    Problems(Vec<Problem>),
    /// The note about files that were removed earlier is not authentic.
    #[error("the file 'pruned' of the audit log is not authentic: it was edited or damaged")]
    Forged,
    /// A file could not be read, written or removed.
    #[error("the files of the audit log cannot be changed")]
    Io(#[from] io::Error),
}

/// Removes the full files whose last record is older than `before`, the oldest first, up to the first one that is not.
pub(crate) fn prune(
    dir: &Path,
    key: &InternalKey,
    signer: &Signer,
    before: Timestamp,
    accept_problems: bool,
) -> Result<Pruned, PruneError> {
    let mut base = match Base::read(dir, Kind::Pruned, signer)? {
        NoteState::None => Base::default(),
        NoteState::Forged => return Err(PruneError::Forged),
        NoteState::Genuine(base) => base,
    };
    let limit = ship::position(dir, key)?.unwrap_or(u64::MAX);
    // A log without records would start again at number 1, so the last record stays.
    let current = first_of_current(dir)?;
    let mut files: Vec<Retired> =
        retired_files(dir)?.into_iter().filter(|file| file.first_seq > base.last.seq).collect();
    let kept = current.or_else(|| files.pop().map(|file| file.first_seq));
    let next: Vec<u64> = files.iter().skip(1).map(|file| file.first_seq).chain(kept).collect();
    let before = before.to_string();
    let mut pruned = Pruned::default();
    let mut watch = |_| ();
    let mut check = Check::new(key, Memory::default(), &mut watch).after(&base);
    check.keep_base(&base);
    for (file, next) in files.into_iter().zip(next) {
        let (file, opened) = file.open(dir)?;
        check.retired(file, opened)?;
        // Both are texts of the same length in UTC.
        let is_old = check.time().is_some_and(|time| time < before);
        if !is_old {
            break;
        }
        if check.report().last.seq > limit {
            pruned.unshipped = true;
            break;
        }
        // A forged number would remove the files after this one, too.
        let is_beyond = check.report().last.seq >= next;
        if !check.report().is_clean() && (is_beyond || !accept_problems) {
            return Err(PruneError::Problems(check.report().problems.clone()));
        }
        base = check.base();
        pruned.files += 1;
    }
    pruned.last = base.last.seq;
    if pruned.files > 0 {
        base.write(dir, Kind::Pruned, signer)?;
    }
    remove_up_to(dir, base.last.seq)?;
    Ok(pruned)
}

/// Removes the files that the note covers and a kill left.
pub(crate) fn finish(dir: &Path, signer: &Signer) -> io::Result<()> {
    remove_up_to(dir, Base::pruned(dir, signer)?.last.seq)
}

/// The number of the current file's first record, if it has one.
fn first_of_current(dir: &Path) -> io::Result<Option<u64>> {
    match open_to_read(&dir.join(CURRENT)) {
        Ok(file) => Tail::first(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove_up_to(dir: &Path, last: u64) -> io::Result<()> {
    let mut removed = false;
    for file in retired_files(dir)?.into_iter().filter(|file| file.first_seq <= last) {
        fs::remove_file(dir.join(file.name()))?;
        removed = true;
    }
    if removed { File::open(dir)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{key, record, settings, verify};
    use crate::{Audit, AuditError, HeadRow, ProblemKind, Report, Settings, Verification};

    /// After every record.
    fn later() -> Timestamp {
        Timestamp::from_micros(1_800_000_000_000_000)
    }

    /// A log of nine files, some compressed, with a checkpoint.
    async fn log(dir: &Path) -> (Audit, String) {
        let settings = Settings { max_bytes: 2000, ..settings(dir) };
        let audit = Audit::open(settings, key(1), HeadRow::NotYet).expect("opens");
        for number in 0..60 {
            audit.append(record(&format!("r-{number}"))).await.expect("is written");
        }
        audit.flush().await.expect("is flushed");
        let note = audit.checkpoint().expect("signed");
        (audit, note)
    }

    fn signer() -> Signer {
        Signer::new(&key(1), None).expect("derives")
    }

    fn held(dir: &Path, note: &str) -> Report {
        let key = key(1);
        let of = Verification {
            dir,
            key: &key,
            replica: None,
            row: HeadRow::NotYet,
            epoch: None,
            checkpoint: Some(note),
        };
        of.run(&mut |_| ()).expect("reads")
    }

    fn kinds(report: &Report) -> Vec<ProblemKind> {
        report.problems.iter().map(|problem| problem.kind).collect()
    }

    #[tokio::test]
    async fn the_rest_of_a_pruned_log_is_verified_from_the_note_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let (audit, note) = log(dir.path()).await;
        let old = audit.prune(Timestamp::from_micros(0), false).expect("nothing is old");
        assert_eq!(old, Pruned::default());
        let files = retired_files(dir.path()).expect("lists");
        let pruned = audit.prune(later(), false).expect("pruned");
        assert_eq!(pruned.files, files.len() as u64);
        assert!(retired_files(dir.path()).expect("lists").is_empty());
        let report = held(dir.path(), &note);
        assert!(report.is_clean() && report.holds == Some(60), "{report:?}");
        assert_eq!((report.pruned, report.records), (pruned.last, 60 - pruned.last));
        // The log continues, is checked, and is pruned again.
        for _ in 0..30 {
            audit.append(record("later")).await.expect("is written");
        }
        audit.flush().await.expect("is flushed");
        let newer = audit.checkpoint().expect("signed");
        let again = audit.prune(later(), false).expect("pruned");
        assert!(again.files > 0 && again.last > pruned.last, "{again:?}");
        audit.close().await.expect("closes");
        let report = held(dir.path(), &newer);
        assert!(report.is_clean() && report.holds == Some(90), "{report:?}");
        assert_eq!(kinds(&held(dir.path(), &note)), [ProblemKind::PrunedCheckpoint { pruned: again.last }]);
        // Without the tree, it is computed from the note on.
        std::fs::remove_file(dir.path().join("tree")).expect("removed");
        let audit = Audit::open(settings(dir.path()), key(1), HeadRow::NotYet).expect("opens");
        assert_eq!(audit.checkpoint().expect("signed"), newer);
        audit.close().await.expect("closes");
    }

    #[tokio::test]
    async fn a_kill_between_note_and_removal_is_finished_later() {
        let dir = tempfile::tempdir().expect("a directory");
        let (audit, note) = log(dir.path()).await;
        audit.close().await.expect("closes");
        let files = retired_files(dir.path()).expect("lists");
        for removed in 0..4 {
            let copy = tempfile::tempdir().expect("a directory");
            for entry in fs::read_dir(dir.path()).expect("lists") {
                let entry = entry.expect("an entry");
                fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copies");
            }
            // The note covers four files, of which some are removed.
            let mut watch = |_| ();
            let key = key(1);
            let mut check = Check::new(&key, Memory::default(), &mut watch);
            check.keep_base(&Base::default());
            for file in &files[..4] {
                let (file, opened) = file.open(copy.path()).expect("opens");
                check.retired(file, opened).expect("reads");
            }
            check.base().write(copy.path(), Kind::Pruned, &signer()).expect("written");
            for file in &files[..removed] {
                fs::remove_file(copy.path().join(file.name())).expect("removed");
            }
            let report = held(copy.path(), &note);
            assert!(report.is_clean() && report.holds == Some(60), "{removed}: {report:?}");
            let audit =
                Audit::open(settings(copy.path()), crate::testing::key(1), HeadRow::NotYet).expect("opens");
            assert_eq!(retired_files(copy.path()).expect("lists").len(), files.len() - 4);
            audit.close().await.expect("closes");
            assert!(held(copy.path(), &note).is_clean());
        }
    }

    #[tokio::test]
    async fn only_the_note_allows_a_log_without_its_first_records() {
        let dir = tempfile::tempdir().expect("a directory");
        let (audit, _) = log(dir.path()).await;
        let files = retired_files(dir.path()).expect("lists");
        let first = files[0];
        let of_first = fs::read(dir.path().join(first.name())).expect("reads");
        let clean = || verify(dir.path(), &key(1), HeadRow::NotYet).expect("reads").is_clean();
        fs::remove_file(dir.path().join(first.name())).expect("removed");
        assert!(!clean(), "removed by hand");
        // A note about fewer records than are missing, and one of another key.
        fs::write(dir.path().join(first.name()), of_first).expect("written");
        audit.prune(later(), false).expect("pruned");
        audit.close().await.expect("closes");
        assert!(clean());
        let whole = fs::read_to_string(dir.path().join("pruned")).expect("reads");
        for note in ["", &whole.replacen('6', "7", 1), "canary"] {
            fs::write(dir.path().join("pruned"), note).expect("written");
            let report = verify(dir.path(), &key(1), HeadRow::NotYet).expect("reads");
            assert!(kinds(&report).contains(&ProblemKind::ForgedNote), "{note}: {report:?}");
            assert!(kinds(&report).iter().any(|kind| matches!(kind, ProblemKind::Missing { first: 1, .. })));
        }
        // The note of the tree, which is signed by the same key.
        fs::copy(dir.path().join("tree"), dir.path().join("pruned")).expect("copied");
        assert!(!clean());
        fs::remove_file(dir.path().join("pruned")).expect("removed");
        assert!(!clean());
    }

    #[tokio::test]
    async fn a_forged_number_removes_no_later_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let (audit, _) = log(dir.path()).await;
        let first = dir.path().join(retired_files(dir.path()).expect("lists")[0].name());
        let mut text = fs::read_to_string(&first).expect("reads");
        let last = text.lines().last().expect("a line");
        let forged =
            last.replacen(&last[..last.find(',').expect("members")], r#"{"seq":9999999999999999999"#, 1);
        text.push_str(&format!("{forged}\n"));
        fs::write(&first, text).expect("written");
        let before = retired_files(dir.path()).expect("lists").len();
        for accept in [false, true] {
            let refused = audit.prune(later(), accept).expect_err("a problem");
            assert!(matches!(refused, PruneError::Problems(_)), "{refused}");
        }
        assert_eq!(retired_files(dir.path()).expect("lists").len(), before);
        audit.close().await.expect("closes");
    }

    #[tokio::test]
    async fn files_with_problems_are_removed_only_on_request_and_the_note_counts_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let (audit, _) = log(dir.path()).await;
        let second = dir.path().join(retired_files(dir.path()).expect("lists")[1].name());
        let text = fs::read_to_string(&second).expect("reads");
        fs::write(&second, text.replacen("192.0.2.1", "192.0.2.2", 1)).expect("written");
        let refused = audit.prune(later(), false).expect_err("a problem");
        assert!(matches!(&refused, PruneError::Problems(problems) if problems.len() == 1), "{refused}");
        assert!(second.exists() && !dir.path().join("pruned").exists());
        audit.prune(later(), true).expect("pruned");
        audit.close().await.expect("closes");
        let report = verify(dir.path(), &key(1), HeadRow::NotYet).expect("reads");
        assert!(report.is_clean() && report.pruned_problems == 1, "{report:?}");
        let wrong = Audit::open(settings(dir.path()), key(2), HeadRow::NotYet).expect("opens");
        assert!(matches!(wrong.prune(later(), true), Err(PruneError::Forged)));
        let error: Result<(), AuditError> = wrong.close().await;
        error.expect("closes");
    }

    #[tokio::test]
    async fn a_forged_number_does_not_delay_the_removal() {
        let dir = tempfile::tempdir().expect("a directory");
        let (audit, _) = log(dir.path()).await;
        let first = dir.path().join(retired_files(dir.path()).expect("lists")[0].name());
        let text = fs::read_to_string(&first).expect("reads");
        let line = text.lines().next().expect("a record");
        let forged = line.replacen("\"seq\":1,", "\"seq\":9999999999999999999,", 1);
        fs::write(&first, format!("{text}{forged}\n")).expect("written");
        let refused = audit.prune(later(), false).expect_err("a problem");
        let is_found = |problem: &Problem| matches!(problem.kind, ProblemKind::Missing { .. });
        assert!(
            matches!(&refused, PruneError::Problems(problems) if problems.iter().any(is_found)),
            "{refused}"
        );
        audit.close().await.expect("closes");
    }

    #[tokio::test]
    async fn the_last_record_of_a_log_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let (audit, _) = log(dir.path()).await;
        audit.close().await.expect("closes");
        let files = retired_files(dir.path()).expect("lists");
        // A kill after the rename of a full file left none that is current.
        fs::remove_file(dir.path().join(CURRENT)).expect("removed");
        let pruned = prune(dir.path(), &key(1), &signer(), later(), false).expect("pruned");
        assert_eq!(pruned.files, files.len() as u64 - 1);
        assert_eq!(retired_files(dir.path()).expect("lists"), files[files.len() - 1..]);
    }

    #[tokio::test]
    async fn records_that_are_not_shipped_stay() {
        let dir = tempfile::tempdir().expect("a directory");
        let (audit, _) = log(dir.path()).await;
        let files = retired_files(dir.path()).expect("lists");
        let mut shipper = audit.shipper().expect("opens");
        assert_eq!(
            audit.prune(later(), false).expect("none"),
            Pruned { unshipped: true, ..Pruned::default() }
        );
        let shipped = shipper.next(25).expect("reads");
        let numbers: Vec<u64> = shipped.iter().map(|line| line.seq).collect();
        assert_eq!(numbers, (1..=25).collect::<Vec<_>>());
        assert!(shipped[0].text.starts_with("{\"seq\":1,") && shipped[0].text.contains("\"mac\":\""));
        // The receiver did not accept them: the same again, also after a restart.
        shipper.again();
        assert_eq!(shipper.next(25).expect("reads"), shipped);
        shipper.confirm(25).expect("kept");
        let rest = shipper.next(100).expect("reads");
        assert_eq!(rest.first().map(|line| line.seq), Some(26));
        let mut restarted = audit.shipper().expect("opens");
        assert_eq!(restarted.next(100).expect("reads"), rest);
        let pruned = audit.prune(later(), false).expect("pruned");
        assert!(pruned.unshipped && pruned.last <= 25 && pruned.files == 3, "{pruned:?} of {files:?}");
        // An edited position ships again instead of losing records.
        let path = dir.path().join("shipped");
        let text = fs::read_to_string(&path).expect("reads");
        fs::write(&path, text.replacen("25", "60", 1)).expect("written");
        let mut edited = audit.shipper().expect("opens");
        assert_eq!(edited.next(1).expect("reads")[0].seq, pruned.last + 1);
        audit.close().await.expect("closes");
    }
}

//! Checks of the files' metadata: permissions, locks, free space, and whether the clock agrees with them.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentrouter_audit::last_time;
use agentrouter_instance::durable_file;
use agentrouter_instance::instance::AUDIT;
use agentrouter_instance::replica::REPLICA;
use agentrouter_instance::storage::DATABASE;
use agentrouter_model::Timestamp;

use super::Finding;

/// Below this, writes fail soon.
const TOO_LITTLE: u64 = 100 << 20;
/// Below this, the finding is a warning.
const LITTLE: u64 = 1 << 30;
/// How far in the future a file's time may be before the clock is reported.
const SKEW: Duration = Duration::from_secs(60);
/// 2025-01-01T00:00:00Z, in microseconds since the epoch: earlier than any release of this program.
const PAST: i64 = 1_735_689_600_000_000;

/// The permission bits of a file, such as 0600, and whether it has the same owner as `like`.
struct Access {
    mode: u32,
    foreign: bool,
}

fn access(path: &Path, like: &Path) -> Option<Access> {
    let metadata = path.metadata().ok()?;
    let foreign = like.metadata().is_ok_and(|like| like.uid() != metadata.uid());
    Some(Access { mode: metadata.mode() & 0o7777, foreign })
}

/// The directory itself: other users may not change it and should not read it.
pub(crate) fn data_directory(dir: &Path) -> Finding {
    private("data directory", dir, dir, &format!("{}", dir.display()))
}

/// A path that cannot be reached, such as one in the directory of another user.
pub(crate) fn unreachable(what: &'static str, path: &Path, error: &std::io::Error) -> Finding {
    Finding::fail(what, format!("{} cannot be looked at: {error}", path.display()))
        .hint("run this as the user that the server runs as, or as root")
}

/// A file or folder of the service: its mode, and that the owner of the data directory owns it.
pub(crate) fn private(what: &'static str, path: &Path, dir: &Path, text: &str) -> Finding {
    let Some(Access { mode, foreign }) = access(path, dir) else {
        return Finding::fail(what, format!("{} cannot be read", path.display()))
            .hint("run this as the user that the server runs as");
    };
    let shown = path.display();
    let finding = if mode & 0o022 != 0 {
        Finding::fail(what, format!("{text}: mode {mode:04o} lets others change it"))
    } else if mode & 0o055 != 0 {
        Finding::warn(what, format!("{text}: mode {mode:04o} lets others read it"))
    } else if foreign {
        return Finding::fail(what, format!("{text}: another user owns it than the data directory"))
            .hint(format!("chown --reference='{}' '{shown}'", dir.display()));
    } else {
        return Finding::ok(what, format!("{text}, mode {mode:04o}"));
    };
    finding.hint(format!("chmod go-rwx '{shown}'"))
}

/// A file with a secret that may belong to root and be readable by the group, as orchestrators mount it. `None` if its
/// mode is right, or if it is no file.
pub(crate) fn secret(what: &'static str, path: &Path) -> Option<Finding> {
    let metadata = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let mode = metadata.mode() & 0o7777;
    let shown = path.display();
    (mode & 0o026 != 0).then(|| {
        Finding::warn(what, format!("{shown}: mode {mode:04o} lets others read or change it"))
            .hint(format!("chmod go-rwx '{shown}'"))
    })
}

/// Of several files that belong together, the first that other users may read or change.
pub(crate) fn exposed<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Option<&'a PathBuf> {
    paths.into_iter().find(|path| access(path, path).is_some_and(|access| access.mode & 0o077 != 0))
}

/// Whether a server holds a lock of the directory. The locks are not tried: the kernel's list of all locks shows them. A
/// directory has both if its store moved to PostgreSQL.
pub(crate) fn server(dir: &Path) -> Finding {
    let found = [REPLICA, DATABASE].into_iter().find_map(|name| holder(dir, name));
    found.unwrap_or_else(|| Finding::ok("server", "none runs now"))
}

/// The process that holds a lock, or why that is unknown.
fn holder(dir: &Path, name: &str) -> Option<Finding> {
    let what = "server";
    let name = format!("{name}-lock");
    let lock = dir.join(&name);
    if lock.is_symlink() {
        let found = Finding::fail(what, format!("{} is a symbolic link", lock.display()));
        return Some(found.hint("find out who made it, and remove it"));
    }
    let read = durable_file::read(dir, &name);
    if let Err(error) = &read
        && error.kind() == std::io::ErrorKind::PermissionDenied
    {
        return Some(unreachable(what, &lock, error));
    }
    let (text, metadata) = (read.ok()?, lock.metadata().ok()?);
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    holds(&locks, metadata.ino()).then(|| {
        let holder = text.trim();
        Finding::ok(what, format!("runs: {}", if holder.is_empty() { "another process" } else { holder }))
    })
}

/// Whether `locks`, the content of `/proc/locks`, has a lock of `flock` on the file of that number:
/// `1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF`.
fn holds(locks: &str, inode: u64) -> bool {
    let inode = inode.to_string();
    locks.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1) == Some(&"FLOCK")
            && fields.get(5).and_then(|file| file.rsplit(':').next()) == Some(&*inode)
    })
}

/// Free space for writes, where the file system reports it: of the data directory, and of the audit log if it has a file
/// system of its own.
pub(crate) fn space(dir: &Path) -> Vec<Finding> {
    let audit = dir.join(AUDIT);
    let device = |path: &Path| path.metadata().map(|metadata| metadata.dev()).ok();
    let apart = device(&audit).is_some() && device(&audit) != device(dir);
    let folders = [("free space", Some(dir)), ("audit space", apart.then_some(&*audit))];
    let space = |(what, folder): (&'static str, Option<&Path>)| {
        let stat = rustix::fs::statvfs(folder?).ok()?;
        if stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
            return Some(judge_read_only(what));
        }
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        Some(judge_space(what, free, stat.f_files > 0 && stat.f_favail == 0))
    };
    folders.into_iter().filter_map(space).collect()
}

fn judge_read_only(what: &'static str) -> Finding {
    Finding::fail(what, "the file system is read-only").hint(
        "make it writable: until then neither audit records nor changes can be written, and requests get 503",
    )
}

fn judge_space(what: &'static str, free: u64, no_files: bool) -> Finding {
    let shown = bytesize::ByteSize(free).display().iec();
    let hint =
        "free some space: without it neither audit records nor changes can be written, and requests get 503";
    if no_files {
        Finding::fail(what, "the file system takes no more files").hint(hint)
    } else if free < TOO_LITTLE {
        Finding::fail(what, format!("{shown}")).hint(hint)
    } else if free < LITTLE {
        Finding::warn(what, format!("{shown}")).hint(hint)
    } else {
        Finding::ok(what, format!("{shown}"))
    }
}

/// Whether the clock is plausible: grace periods and expiries depend on it.
pub(crate) fn clock(dir: &Path, now: Timestamp) -> Finding {
    // A log that cannot be read is a finding of its own.
    if let Ok(Some(last)) = last_time(&dir.join(AUDIT))
        && last.saturating_since(now) > SKEW
    {
        return behind_the_log(now, last);
    }
    let newest = [dir.join(DATABASE), dir.join(AUDIT).join("audit.jsonl")]
        .iter()
        .filter_map(|path| path.metadata().ok())
        .map(|metadata| {
            let micros = metadata.mtime().saturating_mul(1_000_000);
            Timestamp::from_micros(micros.saturating_add(metadata.mtime_nsec() / 1000))
        })
        .max();
    judge_clock(now, newest)
}

fn behind_the_log(now: Timestamp, last: Timestamp) -> Finding {
    Finding::fail("clock", format!("{now} is before the last audit record, {last}"))
        .hint("set the clock and check that NTP runs: until then the server continues from the time of that record")
        .hint("if the clock was wrong when that record was written, restart with 'serve --accept-clock'")
}

fn judge_clock(now: Timestamp, newest: Option<Timestamp>) -> Finding {
    let what = "clock";
    let hint = "set the clock and check that NTP runs: grace periods and the expiry of keys depend on it";
    match newest {
        _ if now.as_micros() < PAST => {
            Finding::fail(what, format!("{now} is before this program was made")).hint(hint)
        }
        Some(newest) if newest.saturating_since(now) > SKEW => {
            Finding::fail(what, format!("{now} is before the last write, {newest}")).hint(hint)
        }
        _ => Finding::ok(what, now.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn little_free_space_is_a_warning_and_almost_none_a_failure() {
        for (free, level) in [(50 << 20, Level::Fail), (500 << 20, Level::Warn), (5 << 30, Level::Ok)] {
            assert_eq!(judge_space("s", free, false).level, level, "{free}");
        }
        assert_eq!(judge_space("s", 5 << 30, true).level, Level::Fail);
    }

    #[test]
    fn a_read_only_file_system_is_a_failure() {
        // Linux mounts this one for reading only, or not at all.
        let is_read_only = |dir: &Path| {
            rustix::fs::statvfs(dir)
                .is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
        };
        assert_eq!(judge_read_only("s").level, Level::Fail);
        for dir in ["/sys", "/proc/sys", "/"].map(Path::new) {
            let failed = space(dir).iter().any(|finding| finding.text.contains("read-only"));
            assert_eq!(failed, is_read_only(dir), "{}", dir.display());
        }
    }

    #[test]
    fn the_audit_logs_own_file_system_is_measured() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join(AUDIT)).expect("made");
        assert_eq!(space(dir.path()).len(), 1, "the same file system");
        std::fs::remove_dir(dir.path().join(AUDIT)).expect("removed");
        // Another file system, that every Linux has.
        std::os::unix::fs::symlink("/proc", dir.path().join(AUDIT)).expect("linked");
        let found: Vec<_> = space(dir.path()).iter().map(|finding| finding.what).collect();
        assert_eq!(found, ["free space", "audit space"]);
    }

    #[test]
    fn a_clock_that_went_back_is_found() {
        let now = Timestamp::from_micros(1_790_000_000_000_000);
        let later = now.saturating_add(Duration::from_secs(3600));
        assert_eq!(judge_clock(now, None).level, Level::Ok);
        assert_eq!(judge_clock(now, Some(now.saturating_add(SKEW))).level, Level::Ok);
        assert_eq!(judge_clock(now, Some(later)).level, Level::Fail);
        assert_eq!(judge_clock(Timestamp::from_micros(0), None).level, Level::Fail);
    }

    #[test]
    fn a_lock_is_found_where_the_kernel_lists_it() {
        let locks =
            "1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF\n2: POSIX  ADVISORY  READ 1 fe:00:77 128 128\n";
        assert!(holds(locks, 1234));
        assert!(!holds(locks, 234));
        assert!(!holds(locks, 77), "a lock of another kind");
    }
}

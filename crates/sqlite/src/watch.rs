//! Watch over the database's files: whether they are still the files that the writer opened.
//!
//! SQLite keeps its files open and does not look at their names again. So without this watch, a writer would continue to
//! acknowledge writes into a file that was removed, and a restart would lose them. [`Watch::look`] compares the file at
//! each path with the file that was opened. It works by path and metadata alone: see the engine's module comment.
//!
//! [`LogCopy`] keeps the content of the log (`-wal`) since the last checkpoint that emptied it in memory. If another
//! program truncates the log, the writer puts the content back.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use agentrouter_store::files::{beside, open_plainly};
use rustix::fs::{Mode, OFlags, SeekFrom, StatVfsMountFlags, fstat, lstat, seek, statvfs};
use rustix::io::Errno;

/// The bytes of the log before its first frame.
const LOG_HEADER: usize = 32;
/// The longest log that is kept in memory. A log grows beyond that while a backup reads the database for long.
const LARGEST_COPY: u64 = 32 << 20;
/// The bytes of a frame of the log before its page.
const FRAME_HEADER: u64 = 24;

/// What is wrong with the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The database is not at its path.
    Database,
    /// The database is shorter than the last checkpoint left it.
    DatabaseCut,
    /// The log is not at its path.
    Log,
    /// The log lacks content.
    LogCut,
    /// The shared index is not at its path.
    Index,
    /// The lock file is not at its path, so another server could start.
    Lock,
    /// The file system cannot be written.
    ReadOnly,
}

impl Change {
    /// What happened and what to do, for callers and operators.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Database => {
                "the database file was moved, removed or replaced; put it back or restart the server"
            }
            Self::DatabaseCut => "the database file was truncated; stop the server and restore a backup",
            Self::Log => "the database's log (-wal) was moved, removed or replaced; restart the server",
            Self::LogCut => "the database's log (-wal) was truncated; restart the server",
            Self::Index => {
                "the index of the database's log (-shm) was moved, removed or replaced; restart the server"
            }
            Self::Lock => "the lock file of the database was moved, removed or replaced; restart the server",
            Self::ReadOnly => "the file system of the database is read-only; make it writable",
        }
    }
}

/// The files as they were when the writer opened them.
#[derive(Debug)]
pub(super) struct Watch {
    /// The database first.
    files: [(CString, Id, Change); 4],
    /// The database, to learn whether it was removed. By a handle of kind `O_PATH`, whose closing drops no lock.
    database: OwnedFd,
    /// The log. SQLite holds no lock on the log, so that closing this one drops none.
    log: File,
}

/// Device and inode.
type Id = (u64, u64);

impl Watch {
    /// Watches the database at `path`, which a writer has opened, under the lock file beside it.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let kind = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let database = rustix::fs::open(path, kind, Mode::empty())?;
        let log = open_plainly(OpenOptions::new().read(true).write(true), &beside(path, "-wal"))?;
        let file = |suffix, change| -> io::Result<_> {
            let path = CString::new(beside(path, suffix).as_os_str().as_bytes())?;
            let stat = lstat(&path)?;
            Ok((path, (stat.st_dev, stat.st_ino), change))
        };
        let files = [
            file("", Change::Database)?,
            file("-wal", Change::Log)?,
            file("-shm", Change::Index)?,
            file("-lock", Change::Lock)?,
        ];
        Ok(Self { files, database, log })
    }

    /// Compares every file with the one that was opened. `database` is the least size of the database, `log` that of the
    /// log.
    pub(super) fn look(&self, database: u64, log: u64) -> Result<(), Change> {
        for (path, id, change) in &self.files {
            match lstat(path) {
                Ok(stat) if (stat.st_dev, stat.st_ino) == *id => {
                    let size = u64::try_from(stat.st_size).unwrap_or_default();
                    match change {
                        Change::Database if size < database => return Err(Change::DatabaseCut),
                        Change::Log if size < log => return Err(Change::LogCut),
                        _ => {}
                    }
                }
                _ => return Err(*change),
            }
        }
        Ok(())
    }

    /// Whether the database's file system can be written.
    pub(super) fn writable(&self) -> Result<(), Change> {
        match statvfs(&self.files[0].0) {
            Ok(stat) if stat.f_flag.contains(StatVfsMountFlags::RDONLY) => Err(Change::ReadOnly),
            _ => Ok(()),
        }
    }

    /// Whether the database no longer has a name.
    pub(super) fn is_removed(&self) -> bool {
        fstat(&self.database).is_ok_and(|stat| stat.st_nlink == 0)
    }

    /// The size of the database, if it is at its path.
    pub(super) fn database_size(&self) -> u64 {
        lstat(&self.files[0].0).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or_default())
    }

    /// Whether the log has `bytes` bytes or more and no hole among them, wherever it is now. A file that was truncated and
    /// then written behind its end has a hole.
    fn log_has(&self, bytes: u64) -> bool {
        let size = fstat(&self.log).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or_default());
        if size < bytes {
            return false;
        }
        match seek(&self.log, SeekFrom::Hole(0)) {
            Ok(hole) => hole >= bytes,
            // An empty file, or a file system that knows no holes.
            Err(Errno::NXIO) => bytes == 0,
            Err(_) => true,
        }
    }
}

/// The content of the log, as the writer left it.
#[derive(Debug)]
pub(super) struct LogCopy {
    /// The whole log with its header; empty if that is more than [`LARGEST_COPY`].
    bytes: Vec<u8>,
    /// The header. Another one means that the log was started again.
    header: [u8; LOG_HEADER],
    /// The size of what the writer has committed to the log.
    size: u64,
    /// The size of a frame.
    frame: u64,
    /// A buffer for the end of the log.
    end: Vec<u8>,
    /// Whether the log has frames that could not be copied, because it was truncated during their commit.
    lost: bool,
}

impl LogCopy {
    /// The copy of an empty log. `page` is the size of a page.
    pub(super) fn new(page: u64) -> Self {
        let frame = FRAME_HEADER + page;
        Self { bytes: Vec::new(), header: [0; LOG_HEADER], size: 0, frame, end: Vec::new(), lost: false }
    }

    /// The least size of the log.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Copies the frames that this copy lacks, up to `frames` in all. False if the log does not have them.
    pub(super) fn follow(&mut self, watch: &Watch, frames: u64) -> bool {
        self.lost = self.lost || !self.append(watch, frames).unwrap_or(false);
        !self.lost
    }

    fn append(&mut self, watch: &Watch, frames: u64) -> io::Result<bool> {
        if frames == 0 {
            return Ok(true);
        }
        let mut header = [0; LOG_HEADER];
        watch.log.read_exact_at(&mut header, 0)?;
        let size = LOG_HEADER as u64 + frames * self.frame;
        if header == self.header {
            if !self.end_is_in(watch)? {
                return Ok(false);
            }
            if size > LARGEST_COPY {
                self.bytes = Vec::new();
            } else {
                let start = self.bytes.len();
                if !read_frames(&watch.log, &mut self.bytes, size, self.frame)? {
                    self.bytes.truncate(start);
                    return Ok(false);
                }
            }
        } else {
            if !is_header(&header) {
                return Ok(false);
            }
            let mut bytes = header.to_vec();
            if size > LARGEST_COPY {
                bytes = Vec::new();
            } else if !read_frames(&watch.log, &mut bytes, size, self.frame)? {
                return Ok(false);
            }
            (self.header, self.bytes) = (header, bytes);
        }
        self.size = size;
        Ok(true)
    }

    /// Whether the log still has the last two frames of this copy. A truncation of less is not seen as a hole, because a
    /// hole has whole blocks.
    fn end_is_in(&mut self, watch: &Watch) -> io::Result<bool> {
        let length = self.bytes.len().min(2 * usize::try_from(self.frame).unwrap_or_default());
        let start = self.bytes.len() - length;
        self.end.resize(length, 0);
        watch.log.read_exact_at(&mut self.end, start as u64)?;
        Ok(self.end == self.bytes[start..])
    }

    /// Whether the log has all that the writer committed to it, wherever it is now. Compares sizes and looks for holes, not
    /// at the content.
    pub(super) fn is_in(&self, watch: &Watch) -> bool {
        watch.log_has(self.size)
    }

    /// Whether the log, if it is as long as this copy, has every committed frame.
    pub(super) fn is_complete(&self) -> bool {
        !self.lost
    }

    /// Writes the copy to the log and syncs it.
    pub(super) fn put_back(&self, watch: &Watch) -> io::Result<()> {
        if (self.bytes.len() as u64) < self.size {
            return Err(io::Error::other("it was too long to be kept in memory"));
        }
        watch.log.write_all_at(&self.bytes, 0)?;
        watch.log.sync_all()
    }

    /// Drops the content: the log was emptied.
    pub(super) fn clear(&mut self) {
        self.bytes = Vec::new();
        self.header = [0; LOG_HEADER];
        self.size = 0;
    }
}

/// Reads what `log` has behind `bytes`, up to `size` bytes in all: the log may have frames behind those that were not
/// committed. False if these are no frames of the header at the start of `bytes`. A hole is zeros.
fn read_frames(mut log: &File, bytes: &mut Vec<u8>, size: u64, frame: u64) -> io::Result<bool> {
    let start = bytes.len();
    let missing = size.saturating_sub(start as u64);
    log.seek(io::SeekFrom::Start(start as u64))?;
    let read = log.take(missing).read_to_end(bytes)?;
    // Each frame repeats the header's salts.
    let (before, copied) = bytes.split_at(start);
    let mut frames = copied.chunks(usize::try_from(frame).unwrap_or(usize::MAX));
    Ok(read as u64 == missing && frames.all(|frame| frame.get(8..16) == before.get(16..24)))
}

/// Whether these bytes are the header of a log: the checksum at their end is that of the bytes before it
/// (<https://www.sqlite.org/fileformat2.html#walformat>).
fn is_header(header: &[u8; LOG_HEADER]) -> bool {
    let word = |at: usize, little: bool| {
        let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
        if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
    };
    // The last bit of the first word says in which order the checksum reads the others.
    let little = word(0, false) & 1 == 0;
    let (mut a, mut b) = (0_u32, 0_u32);
    for at in [0, 8, 16] {
        a = a.wrapping_add(word(at, little)).wrapping_add(b);
        b = b.wrapping_add(word(at + 4, little)).wrapping_add(a);
    }
    word(0, false) | 1 == 0x377f_0683 && (a, b) == (word(24, false), word(28, false))
}

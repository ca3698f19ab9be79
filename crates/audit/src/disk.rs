//! The directory and the file that the log is written to.
//!
//! Two small traits separate the writer from the file system, so that tests can make a disk full, slow or broken. The real
//! implementations follow no symbolic link, do not block on opening, and set mode 0600 whatever the umask.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, OFlags, fadvise};

/// Name of the file that is written.
pub(crate) const CURRENT: &str = "audit.jsonl";
/// The ending of a compressed file's name.
const ZST: &str = ".zst";
/// The ending of a file's name until the file is complete.
pub(crate) const NEW: &str = ".new";
/// Follows no link, and does not block.
const PLAINLY: i32 = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits().cast_signed();

/// The identity and length of a file. Only the writer may change them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) bytes: u64,
}

/// The directory of the log.
pub(crate) trait Folder: Send + 'static {
    /// Opens the current file, creates it if it does not exist, and locks it.
    fn open_current(&self) -> io::Result<Box<dyn LogFile>>;
    /// The file that has the current file's name now, if any.
    fn current(&self) -> io::Result<Option<Identity>>;
    /// Renames the current file to an unused name.
    fn retire_current(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync(&self) -> io::Result<()>;
}

/// The file that is written, at its end only.
pub(crate) trait LogFile: Send {
    /// One write(2).
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Truncates the file to `bytes`.
    fn truncate(&mut self, bytes: u64) -> io::Result<()>;
    /// Starts to write some of the content to the disk, without waiting.
    fn start_sync(&mut self, bytes: Range<u64>) -> io::Result<()>;
    /// Makes the content durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Its identity and length.
    fn identity(&self) -> io::Result<Identity>;
    /// The content from an offset on.
    fn reader(&mut self, from: u64) -> io::Result<Box<dyn Read + '_>>;
}

/// The form of a full file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    /// As it was written.
    Plain,
    /// Compressed.
    Zstd,
}

/// A full file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retired {
    /// The number of its first record.
    pub(crate) first_seq: u64,
    pub(crate) form: Form,
}

/// The name of a full file: it has the number of its first record.
pub(crate) fn retired_name(first_seq: u64, form: Form) -> String {
    let suffix = match form {
        Form::Plain => "",
        Form::Zstd => ZST,
    };
    format!("audit-{first_seq:020}.jsonl{suffix}")
}

impl Retired {
    /// The full file of this name.
    fn named(name: &str) -> Option<Self> {
        let (name, form) = match name.strip_suffix(ZST) {
            Some(name) => (name, Form::Zstd),
            None => (name, Form::Plain),
        };
        let digits = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
        let is_number = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
        // Records count from 1.
        let first_seq = is_number.then(|| digits.parse().ok())?.filter(|seq| *seq > 0)?;
        Some(Self { first_seq, form })
    }

    pub(crate) fn name(self) -> String {
        retired_name(self.first_seq, self.form)
    }

    /// Opens the file in `dir`, in the form that it has now.
    pub(crate) fn open(mut self, dir: &Path) -> io::Result<(Self, File)> {
        // It may be compressed meanwhile.
        match open_to_read(&dir.join(self.name())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.form == Form::Plain => {
                self.form = Form::Zstd;
                Ok((self, open_to_read(&dir.join(self.name()))?))
            }
            opened => Ok((self, opened?)),
        }
    }
}

/// The full files of `dir` by the number of their first record. Of a file that has both forms, the original: the other may
/// not be complete.
pub(crate) fn retired_files(dir: &Path) -> io::Result<Vec<Retired>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        files.extend(entry?.file_name().to_str().and_then(Retired::named));
    }
    files.sort_unstable_by_key(|file| (file.first_seq, file.form));
    files.dedup_by_key(|file| file.first_seq);
    Ok(files)
}

/// The files of `dir` that are named like a part of the log and are none, such as a copy or a file that another program
/// renamed. Control characters in their names are escaped.
pub(crate) fn unknown_files(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let is_like_one = name.starts_with("audit") || name.contains(".jsonl");
        // The compression of a full file is in progress, or was interrupted.
        let compressed = name.strip_suffix(NEW).filter(|name| name.ends_with(ZST));
        let is_known = *name == *CURRENT || Retired::named(compressed.unwrap_or(&name)).is_some();
        if is_like_one && !is_known {
            names.push(name.escape_debug().to_string());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// What a full file contains: decompressed, if it is compressed.
pub(crate) fn content(form: Form, file: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    Ok(match form {
        Form::Plain => Box::new(file),
        Form::Zstd => Box::new(zstd::Decoder::new(file)?),
    })
}

/// Whether a compressed file cannot be decompressed: it was edited or damaged. Any other error is the system's.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    error.raw_os_error().is_none()
}

/// Opens a file of the log for reading: a regular file only, through no link, without blocking.
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(PLAINLY).open(path)?;
    regular(file)
}

/// Reads a small file of the log. None if there is no such file.
pub(crate) fn read_small(dir: &Path, name: &str, most_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    match open_to_read(&dir.join(name)) {
        Ok(file) => file.take(most_bytes).read_to_end(&mut content)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(content))
}

/// Creates a file that gets its name later, mode 0600. Removes one that a crash left.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(in_the_way(path, error)),
        _ => {}
    }
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).custom_flags(PLAINLY).open(path)
}

/// The error of a temporary name that is taken by something that cannot be removed like a file.
fn in_the_way(path: &Path, error: io::Error) -> io::Error {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            io::Error::new(error.kind(), format!("{name} is a directory, and must be removed"))
        }
        _ => io::Error::new(error.kind(), format!("{name} cannot be removed: {error}")),
    }
}

/// Replaces `dir/name` by a file with this content, mode 0600, that is on disk.
pub(crate) fn replace(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let new = dir.join(format!("{name}{NEW}"));
    let mut file = create_new(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(new, dir.join(name))
}

fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

/// A directory of the file system.
pub(crate) struct Directory {
    path: PathBuf,
    handle: File,
}

impl Directory {
    /// Opens `path`, and creates it with mode 0700 if it does not exist.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if !path.is_dir() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        }
        Ok(Self { path: path.to_owned(), handle: File::open(path)? })
    }
}

impl Folder for Directory {
    fn open_current(&self) -> io::Result<Box<dyn LogFile>> {
        let path = self.path.join(CURRENT);
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(PLAINLY)
            .open(path)?;
        let file = regular(file)?;
        // The umask can take bits away from the mode above, and an older file may have more.
        if file.metadata()?.mode() & 0o777 != 0o600 {
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
        }
        match file.try_lock() {
            Ok(()) => Ok(Box::new(Current(file))),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::ResourceBusy.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn current(&self) -> io::Result<Option<Identity>> {
        match fs::symlink_metadata(self.path.join(CURRENT)) {
            Ok(metadata) => Ok(Some(Identity::of(&metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn retire_current(&self, name: &str) -> io::Result<()> {
        let to = self.path.join(name);
        if fs::symlink_metadata(self.path.join(format!("{name}{ZST}"))).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        // There is one writer, so the name stays unused between the check and the rename.
        match fs::symlink_metadata(&to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(self.path.join(CURRENT), to),
            Err(error) => Err(error),
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

impl Identity {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), bytes: metadata.len() }
    }

    /// Whether both are the same file, whatever its length.
    pub(crate) fn is_same_file(self, other: Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// A file of the file system.
pub(crate) struct Current(pub(crate) File);

impl LogFile for Current {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn start_sync(&mut self, bytes: Range<u64>) -> io::Result<()> {
        // This call makes the kernel write the pages, because it marks them as no longer needed.
        let length = NonZeroU64::new(bytes.end.saturating_sub(bytes.start));
        Ok(fadvise(&self.0, bytes.start, length, Advice::DontNeed)?)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn identity(&self) -> io::Result<Identity> {
        Ok(Identity::of(&self.0.metadata()?))
    }

    fn reader(&mut self, from: u64) -> io::Result<Box<dyn Read + '_>> {
        self.0.seek(SeekFrom::Start(from))?;
        Ok(Box::new(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_named_by_its_first_record() {
        assert_eq!(retired_name(42, Form::Plain), "audit-00000000000000000042.jsonl");
        assert_eq!(retired_name(42, Form::Zstd), "audit-00000000000000000042.jsonl.zst");
        for form in [Form::Plain, Form::Zstd] {
            let file = Retired { first_seq: u64::MAX, form };
            assert_eq!(Retired::named(&file.name()), Some(file));
        }
        for other in [
            "audit.jsonl",
            "audit-42.jsonl",
            "audit-00000000000000000000.jsonl",
            "audit-0000000000000000004x.jsonl",
            "audit-00000000000000000042.jsonl.zst.new",
        ] {
            assert_eq!(Retired::named(other), None);
        }
    }

    #[test]
    fn files_are_for_the_owner_alone() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("audit");
        let folder = Directory::open(&path).expect("opens");
        drop(folder.open_current().expect("opens"));
        let mode = |path: &Path| fs::metadata(path).expect("exists").mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join(CURRENT)), 0o600);
        for other in [0o666, 0o000] {
            fs::set_permissions(path.join(CURRENT), fs::Permissions::from_mode(other)).expect("chmod");
            // Root opens even mode 000. Other users get an error, which is as good.
            if folder.open_current().is_ok() {
                assert_eq!(mode(&path.join(CURRENT)), 0o600);
            }
        }
    }

    #[test]
    fn a_temporary_name_that_is_taken_by_a_directory_is_named() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let new = dir.path().join("head.new");
        fs::create_dir(&new).expect("made");
        let error = replace(dir.path(), "head", b"text").expect_err("in the way");
        assert_eq!(error.to_string(), "head.new is a directory, and must be removed");
        fs::remove_dir(&new).expect("removed");
        assert!(std::process::Command::new("mkfifo").arg(&new).status().expect("runs").success());
        replace(dir.path(), "head", b"text").expect("a pipe is removed like a file");
    }

    #[test]
    fn retiring_overwrites_nothing() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let folder = Directory::open(dir.path()).expect("opens");
        let plain = |seq| retired_name(seq, Form::Plain);
        fs::write(dir.path().join(plain(1)), "kept").expect("writes");
        fs::write(dir.path().join(retired_name(3, Form::Zstd)), "kept").expect("writes");
        drop(folder.open_current().expect("opens"));
        assert!(folder.retire_current(&plain(1)).is_err());
        assert!(folder.retire_current(&plain(3)).is_err());
        assert_eq!(fs::read(dir.path().join(plain(1))).expect("reads"), b"kept");
        folder.retire_current(&plain(2)).expect("retires");
        assert!(folder.current().expect("stat").is_none());
        fs::write(dir.path().join(retired_name(2, Form::Zstd)), "not complete").expect("writes");
        let files = retired_files(dir.path()).expect("lists");
        let found: Vec<_> = files.iter().map(|file| (file.first_seq, file.form)).collect();
        assert_eq!(found, [(1, Form::Plain), (2, Form::Plain), (3, Form::Zstd)]);
    }

    #[test]
    fn a_link_a_pipe_and_a_file_in_use_are_not_opened() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let folder = Directory::open(dir.path()).expect("opens");
        let current = dir.path().join(CURRENT);
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &current).expect("links");
        assert!(folder.open_current().is_err());
        fs::remove_file(&current).expect("removes");
        let made = std::process::Command::new("mkfifo").arg(&current).status().expect("runs");
        assert!(made.success());
        assert!(folder.open_current().is_err());
        fs::remove_file(&current).expect("removes");
        let held = folder.open_current().expect("opens");
        let error = folder.open_current().err().expect("is locked");
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        drop(held);
        folder.open_current().expect("opens");
    }
}

//! The backup file: written atomically, and checked to its last byte when it is read.

pub(crate) mod format;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use agentrouter_crypto::{InternalKey, Sha256};
use agentrouter_instance::Advised;
use agentrouter_model::{Secret, Status, Version};
use agentrouter_store::files::open_plainly;
use agentrouter_store::portable::Item;
use anyhow::{Context as _, bail};
use tempfile::NamedTempFile;

use format::{EndLine, FORMAT, Header, LONGEST, Line};

/// The start of a backup.
const PARTIAL: &[u8; 11] = b"{\"backup\":{";

/// A backup that is being written. Dropped unfinished, it leaves no file. A crash may leave a file `NAME.partial`,
/// which is not a backup: the next backup in that folder removes it. It is locked while a process writes it.
pub(crate) struct Writer {
    out: BufWriter<NamedTempFile>,
    path: PathBuf,
    hash: Sha256,
    items: u64,
}

impl Writer {
    /// Starts a backup at `path` with `header`. There must be no file yet.
    ///
    /// # Errors
    /// When a file exists at `path`, or the file beside it cannot be created.
    pub(crate) fn create(path: &Path, header: Header) -> anyhow::Result<Self> {
        refuse_existing(path)?;
        let out = BufWriter::with_capacity(1 << 20, create_partial(path)?);
        let mut writer = Self { out, path: path.to_owned(), hash: Sha256::new(), items: 0 };
        writer.line(&Line::Backup(header))?;
        // So that the file is recognised as a partial backup, even if the process is killed at once.
        writer.out.flush().with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(writer)
    }

    /// Adds an item.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn item(&mut self, item: &Item) -> anyhow::Result<()> {
        self.items += 1;
        self.line(&Line::of(item))
    }

    /// Ends the file, flushes it to the disk, has `check` read it, and gives it its name.
    ///
    /// # Errors
    /// When that fails, or the check fails. Then there is no file at the path.
    pub(crate) fn finish<T>(
        mut self,
        key: &InternalKey,
        check: impl FnOnce(&Path) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let so_far = self.hash.clone().finish();
        let mac = format::base64(&format::mac(key, self.items, &so_far));
        self.line(&Line::End(EndLine { items: self.items, mac }))?;
        let hash = self.hash.clone().finish();
        self.line(&Line::Sha256(format::hex(&hash)))?;
        let failed = format!("{} cannot be written", self.path.display());
        let flushed = self.out.flush().and_then(|()| self.out.get_ref().as_file().sync_all());
        flushed.with_context(|| failed.clone())?;
        let checked =
            check(self.out.get_ref().path()).context("the backup does not read back as it was written")?;
        self.settle(File::sync_all).context(failed)?;
        Ok(checked)
    }

    /// Renames the file to its name, and flushes the name to the disk by `sync`. If that fails, removes the name again.
    pub(crate) fn settle(self, sync: impl FnOnce(&File) -> std::io::Result<()>) -> std::io::Result<()> {
        let folder = File::open(folder(&self.path))?;
        let file = self.out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.persist_noclobber(&self.path)?;
        let done = sync(&folder);
        if done.is_err() {
            let _ = std::fs::remove_file(&self.path);
        }
        done
    }

    fn line(&mut self, line: &Line) -> anyhow::Result<()> {
        let mut text = line.to_text().context("an item cannot be written")?;
        text.push(b'\n');
        self.hash.update(&text);
        self.out.write_all(&text).with_context(|| format!("{} cannot be written", self.path.display()))
    }
}

/// The parent folder of a path.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates the partial file, mode 0600, in place of one that a crash left, and locks it.
fn create_partial(path: &Path) -> anyhow::Result<NamedTempFile> {
    let mut name = path.file_name().with_context(|| format!("{} names no file", path.display()))?.to_owned();
    name.push(".partial");
    let path = folder(path).join(&name);
    let failed = || format!("{} cannot be made", path.display());
    let busy = || format!("{} is being written by another process", path.display());
    let mut old = OpenOptions::new();
    old.write(true)
        .custom_flags((rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed());
    // Held until the new file exists. If the file system has no locks, or the path is not a file, no process holds a
    // lock.
    let old = old.open(&path).ok();
    if let Some(Err(TryLockError::WouldBlock)) = old.as_ref().map(File::try_lock) {
        bail!(busy());
    }
    if let Err(error) = std::fs::remove_file(&path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error).with_context(failed);
    }
    remove_partial(folder(&path));
    let new = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempfile_in(folder(&path));
    let new = new.with_context(failed)?;
    match new.as_file().try_lock() {
        Err(TryLockError::WouldBlock) => bail!(busy()),
        _ => Ok(new),
    }
}

/// Removes the partial backups that killed processes left in a folder: files named `*.partial` that start like a backup and
/// that no process has locked. Other files, and those that cannot be removed, stay.
fn remove_partial(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.extension().is_some_and(|extension| extension == "partial") && is_abandoned(&path) {
            match std::fs::remove_file(&path) {
                Ok(()) => tracing::warn!("{} of an interrupted backup is removed", path.display()),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "{} of an interrupted backup cannot be removed", path.display());
                }
            }
        }
    }
}

fn is_abandoned(path: &Path) -> bool {
    let mut start = [0; PARTIAL.len()];
    open_plainly(OpenOptions::new().read(true), path).is_ok_and(|mut file| {
        file.try_lock().is_ok() && file.read_exact(&mut start).is_ok() && start == *PARTIAL
    })
}

/// Refuses a path that exists: an older backup is not overwritten.
///
/// # Errors
/// When the path exists.
pub(crate) fn refuse_existing(path: &Path) -> anyhow::Result<()> {
    if path.symlink_metadata().is_ok() {
        let what = format!("{} is there already", path.display());
        bail!(Advised::new(what, "give the backup another name, or remove that one first"));
    }
    Ok(())
}

/// A backup that is being read. Do not use its items before [`Reader::next`] has returned `None`.
pub(crate) struct Reader {
    lines: BufReader<File>,
    path: PathBuf,
    pub(crate) header: Header,
    number: u64,
    hash: Sha256,
    order: Order,
    items: u64,
    end: Option<End>,
}

/// The fields that the first line has in every format.
#[derive(serde::Deserialize)]
struct Outline {
    backup: FormatNumber,
}

#[derive(serde::Deserialize)]
struct FormatNumber {
    format: u32,
}

/// The end of a complete backup.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// The number of items.
    pub(crate) items: u64,
    /// The mac over `digest` under the key in the header.
    pub(crate) mac: Vec<u8>,
    /// SHA-256 of everything before the end's line.
    pub(crate) digest: [u8; 32],
    /// SHA-256 of everything before the last line, which has it.
    pub(crate) sha256: String,
}

impl Reader {
    /// Opens a backup and reads its first line.
    ///
    /// # Errors
    /// When it cannot be read, or is not a backup in a known format.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let mut lines = BufReader::with_capacity(1 << 20, file);
        let mut first = Vec::new();
        let read = (&mut lines).take(64 * 1024).read_until(b'\n', &mut first);
        read.with_context(|| format!("{} cannot be read", path.display()))?;
        let foreign =
            || format!("{} is no backup of this program, or its first line is damaged", path.display());
        let outline: Outline = serde_json::from_slice(&first).ok().with_context(foreign)?;
        if outline.backup.format > FORMAT {
            let found = outline.backup.format;
            let what =
                format!("{} is of format {found}, and this program knows format {FORMAT}", path.display());
            bail!(Advised::new(what, "use the newer program"));
        }
        let line = first.strip_suffix(b"\n").and_then(|line| Line::parse(line).ok());
        let Some(Line::Backup(header)) = line else { bail!(foreign()) };
        if header.format != FORMAT || !header.is_printable() {
            bail!(foreign());
        }
        let mut hash = Sha256::new();
        hash.update(&first);
        let path = path.to_owned();
        Ok(Self { lines, path, header, number: 1, hash, order: Order::default(), items: 0, end: None })
    }

    /// The next item. `None` after the end, when the backup was found complete.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or is truncated. The message names the line.
    pub(crate) fn next(&mut self) -> anyhow::Result<Option<Item>> {
        if self.end.is_some() {
            return Ok(None);
        }
        let (line, text) = self.line()?;
        match line {
            Line::End(line) => self.end(line, &text).map(|()| None),
            line => {
                let item = line.item(self.order.secret.as_ref()).ok().flatten();
                let item = item.filter(|item| self.order.admits(item)).with_context(|| self.damaged())?;
                self.hash.update(&text);
                self.items += 1;
                Ok(Some(item))
            }
        }
    }

    /// The end of the backup, when it was read.
    pub(crate) fn ended(&self) -> Option<&End> {
        self.end.as_ref()
    }

    fn end(&mut self, line: EndLine, text: &[u8]) -> anyhow::Result<()> {
        let digest = self.hash.clone().finish();
        self.hash.update(text);
        let sha256 = format::hex(&self.hash.clone().finish());
        if line.items != self.items || !self.order.is_complete() {
            bail!(self.damaged());
        }
        let mac = format::bytes(&line.mac).ok().with_context(|| self.damaged())?;
        let (last, _) = self.line()?;
        let mut rest = Vec::new();
        let more = (&mut self.lines).take(1).read_to_end(&mut rest)?;
        match last {
            Line::Sha256(found) if found == sha256 && more == 0 => {}
            Line::Sha256(found) if found == sha256 => {
                bail!("{} continues after its end", self.path.display())
            }
            Line::Sha256(_) => bail!("{} is damaged: its SHA-256 does not fit", self.path.display()),
            _ => bail!(self.damaged()),
        }
        self.end = Some(End { items: self.items, mac, digest, sha256 });
        Ok(())
    }

    /// The next line, parsed, and its bytes with the newline.
    fn line(&mut self) -> anyhow::Result<(Line, Vec<u8>)> {
        let mut text = Vec::new();
        let read = (&mut self.lines).take(LONGEST).read_until(b'\n', &mut text);
        read.with_context(|| format!("{} cannot be read", self.path.display()))?;
        self.number += 1;
        let Some(line) = text.strip_suffix(b"\n") else {
            if text.len() as u64 == LONGEST {
                bail!(self.damaged());
            }
            bail!("{} is cut short: its end is missing", self.path.display());
        };
        let line = Line::parse(line).ok().with_context(|| self.damaged())?;
        Ok((line, text))
    }

    fn damaged(&self) -> String {
        format!("{} is damaged at line {}", self.path.display(), self.number)
    }
}

/// The order of the items. There is only one valid order.
#[derive(Default)]
struct Order {
    /// The kind and the sort key of the last item.
    last: Option<(u8, Vec<String>)>,
    /// The secret of the current versions, the last of them, and whether the active one was read.
    secret: Option<Secret>,
    version: Option<Version>,
    active: bool,
}

impl Order {
    /// Records `item`, if it may come next.
    fn admits(&mut self, item: &Item) -> bool {
        if let Item::Version(stored) = item {
            let Some(secret) = &self.secret else { return false };
            let found = &stored.secret;
            let active = found.status == Status::Active;
            let ascends = self.version.is_none_or(|last| last < found.version);
            let is_last = found.version == secret.version;
            let fits = !active || found.kek_id == secret.kek_id;
            if self.active || !ascends || active != is_last || !fits {
                return false;
            }
            (self.version, self.active) = (Some(found.version), active);
            return true;
        }
        if !self.is_complete() {
            return false;
        }
        let (kind, by) = match item {
            Item::Kek { id, .. } => (0, vec![id.to_string()]),
            Item::InternalKey { purpose, .. } => (1, vec![purpose.clone()]),
            Item::ApiKey(key) => (2, vec![key.id.to_string()]),
            Item::Secret(secret) => {
                let place = &secret.place;
                (3, vec![place.owner.to_string(), place.realm.to_string(), place.name.to_string()])
            }
            Item::Version(_) => return false,
        };
        let next = Some((kind, by));
        if self.last >= next {
            return false;
        }
        self.last = next;
        if let Item::Secret(secret) = item {
            (self.secret, self.version, self.active) = (Some((**secret).clone()), None, false);
        }
        true
    }

    /// Whether the last secret is complete.
    fn is_complete(&self) -> bool {
        self.secret.is_none() || self.active
    }
}

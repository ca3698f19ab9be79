//! Shared parts of the tests: keys, a clock, records, and a disk that fails on demand.

use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use agentrouter_crypto::InternalKey;
use agentrouter_model::{Clock, Rng, RngError, Timestamp};
use tokio::time::Instant;

use crate::disk::{Directory, Folder, Identity, LogFile};
use crate::head::Mark;
use crate::{Audit, AuditError, AuditHead, HeadRow, Phase, Record, Report, Settings, Verification};

struct Repeat(u8);

impl Rng for Repeat {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RngError> {
        bytes.fill(self.0);
        Ok(())
    }
}

pub(crate) fn key(number: u8) -> InternalKey {
    InternalKey::generate(&Repeat(number)).expect("a key")
}

struct Noon;

impl Clock for Noon {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000)
    }
}

pub(crate) fn settings(dir: &Path) -> Settings {
    Settings { compress: false, ..Settings::new(dir, Arc::new(Noon)) }
}

pub(crate) fn open(dir: &Path, head: Option<AuditHead>) -> Audit {
    Audit::open(settings(dir), key(1), row(head)).expect("opens")
}

/// The row of a store that has this head, or is being filled.
pub(crate) fn row(head: Option<AuditHead>) -> HeadRow {
    head.map_or(HeadRow::NotYet, |head| HeadRow::Kept(Mark::from(head).row(&key(1))))
}

/// A verification without a checkpoint.
pub(crate) fn verify(dir: &Path, key: &InternalKey, row: HeadRow) -> Result<Report, AuditError> {
    Verification { dir, key, replica: None, row, epoch: None, checkpoint: None }.run(&mut |_| ())
}

pub(crate) fn record(request_id: &str) -> Record<'_> {
    Record {
        time: Noon.now(),
        request_id,
        trace_id: Some("0af7651916cd43dd8448eb211c80319c"),
        key_id: None,
        identity: None,
        user: None,
        rpc: "GetSecretValue",
        owner: None,
        realm: None,
        name: None,
        version: None,
        kek_id: None,
        provider: None,
        phase: Phase::Outcome,
        outcome: "OK",
        reason: None,
        address: Some("192.0.2.1"),
    }
}

/// The behaviour of the disk.
#[derive(Default)]
pub(crate) struct Faults {
    /// Bytes left on the disk; none means enough.
    pub(crate) space: Option<usize>,
    /// Truncation fails.
    pub(crate) no_truncate: bool,
    /// Fsync fails.
    pub(crate) no_sync: bool,
    /// Writes hang.
    pub(crate) stuck: bool,
    /// Most bytes that one write takes.
    pub(crate) most: Option<usize>,
    /// Files opened; fsyncs that were tried, as the number of the file they were tried on.
    pub(crate) opened: usize,
    pub(crate) synced: Vec<usize>,
    /// How long the real disk took for its fsyncs.
    pub(crate) syncing: Duration,
    /// The ranges that the disk started to write before their fsync.
    pub(crate) started: Vec<Range<u64>>,
}

/// A real directory with faults that a test sets.
#[derive(Clone, Default)]
pub(crate) struct Disk(Arc<(Mutex<Faults>, Condvar)>);

impl Disk {
    pub(crate) fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.0.0.lock().expect("not poisoned"));
        self.0.1.notify_all();
    }

    pub(crate) fn get<T>(&self, read: impl FnOnce(&Faults) -> T) -> T {
        read(&self.0.0.lock().expect("not poisoned"))
    }

    pub(crate) fn open(&self, settings: Settings) -> Audit {
        self.open_at(settings, None)
    }

    pub(crate) fn open_at(&self, settings: Settings, head: Option<AuditHead>) -> Audit {
        let folder = Directory::open(&settings.dir).expect("opens");
        let folder = Box::new(FaultyFolder(folder, self.clone()));
        Audit::open_in(folder, settings, key(1), row(head)).expect("opens")
    }

    fn timed<T>(&self, sync: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = sync();
        self.set(|faults| faults.syncing += start.elapsed());
        result
    }
}

struct FaultyFolder(Directory, Disk);

impl Folder for FaultyFolder {
    fn open_current(&self) -> io::Result<Box<dyn LogFile>> {
        let file = self.0.open_current()?;
        self.1.set(|faults| faults.opened += 1);
        let number = self.1.get(|faults| faults.opened);
        Ok(Box::new(FaultyFile(file, self.1.clone(), number)))
    }

    fn current(&self) -> io::Result<Option<Identity>> {
        self.0.current()
    }

    fn retire_current(&self, name: &str) -> io::Result<()> {
        self.0.retire_current(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.1.timed(|| self.0.sync())
    }
}

struct FaultyFile(Box<dyn LogFile>, Disk, usize);

impl LogFile for FaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (faults, changed) = &*self.1.0;
        let mut faults = changed
            .wait_while(faults.lock().expect("not poisoned"), |faults| faults.stuck)
            .expect("not poisoned");
        let most = bytes.len().min(faults.most.unwrap_or(usize::MAX)).min(faults.space.unwrap_or(usize::MAX));
        if most == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        faults.space = faults.space.map(|space| space - most);
        drop(faults);
        self.0.write(&bytes[..most])
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        if self.1.get(|faults| faults.no_truncate) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.0.truncate(bytes)
    }

    fn start_sync(&mut self, bytes: Range<u64>) -> io::Result<()> {
        self.1.set(|faults| faults.started.push(bytes.clone()));
        self.0.start_sync(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        let number = self.2;
        self.1.set(|faults| faults.synced.push(number));
        if self.1.get(|faults| faults.no_sync) {
            return Err(io::Error::other("input/output error"));
        }
        self.1.timed(|| self.0.sync())
    }

    fn identity(&self) -> io::Result<Identity> {
        self.0.identity()
    }

    fn reader(&mut self, from: u64) -> io::Result<Box<dyn Read + '_>> {
        self.0.reader(from)
    }
}

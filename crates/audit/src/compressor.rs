//! Compression of full files.
//!
//! A thread of low priority compresses each full file with zstd, and then removes the original. Readers take either form. A
//! kill at any moment leaves the original, or the complete compressed file, or both:
//!
//! 1. The compressed file is written under another name, compared with the original, and fsynced.
//! 2. It gets its name.
//! 3. The original is removed.
//!
//! While both exist, readers take the original. The next pass removes it if the two are the same, and otherwise keeps both.
//! Does not check the records: a file is compressed as it is, and `verify` reads its decompressed content.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::disk::{Form, NEW, create_new, open_to_read, retired_files, retired_name};

/// The level of zstd: three quarters are saved at several hundred megabytes a second.
const LEVEL: i32 = 3;
/// The unit of reading.
const CHUNK: usize = 256 * 1024;
/// The lowest priority.
const NICE: i32 = 19;

/// The thread that compresses.
pub(crate) struct Compressor {
    thread: JoinHandle<()>,
    /// Wakes the thread when it is to stop: the writer may be stuck with its own copy.
    wakeup: Wakeup,
    stop: Arc<AtomicBool>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

/// Wakes the thread, because there is a full file.
pub(crate) type Wakeup = Sender<()>;

impl Compressor {
    /// Starts the thread for `dir`. It first compresses the files that are there. It holds `files` while it works, so that
    /// nothing else changes full files then.
    pub(crate) fn start(dir: &Path, files: Arc<Mutex<()>>) -> io::Result<(Self, Wakeup)> {
        let (wakeup, wakeups) = channel();
        let (running, ended) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("audit-files".into()).spawn({
            let (dir, stop) = (dir.to_owned(), Arc::clone(&stop));
            move || {
                // Dropped at the end, and by a panic.
                let _running: Sender<()> = running;
                run(&dir, &files, &wakeups, &stop);
            }
        })?;
        let _ = wakeup.send(());
        Ok((Self { thread, wakeup: wakeup.clone(), stop, ended }, wakeup))
    }

    /// Has the thread end. It abandons the file that it is compressing. Does not wait.
    pub(crate) fn start_stopping(&self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.wakeup.send(());
    }

    /// Ends the thread. Waits for that, at most `patience`: it may be stuck in the kernel. Returns whether it has ended.
    pub(crate) fn stop(self, patience: Duration) -> bool {
        self.start_stopping();
        let has_ended = self.ended.recv_timeout(patience) == Err(RecvTimeoutError::Disconnected);
        if has_ended {
            // A panic of the thread has lost nothing.
            let _ = self.thread.join();
        }
        has_ended
    }
}

fn run(dir: &Path, files: &Mutex<()>, wakeups: &Receiver<()>, stop: &AtomicBool) {
    // Linux applies it to this thread alone. If it fails, compression takes more time from the requests.
    let _ = rustix::process::setpriority_process(None, NICE);
    while wakeups.recv().is_ok() {
        while wakeups.try_recv().is_ok() {}
        // After the wakeup was received: the flag is set before the last one is sent.
        if stop.load(Ordering::Acquire) {
            break;
        }
        let _held = files.lock().unwrap_or_else(PoisonError::into_inner);
        // After a failure (a full disk, a file that cannot be read) the next full file starts another attempt.
        compress_all(dir, stop, &mut |file, error| {
            tracing::warn!(
                file,
                error = error as &dyn std::error::Error,
                "a full file of the audit log could not be compressed, and stays as it is"
            );
        });
    }
}

/// Compresses the full files of `dir`, and removes what a kill left. Calls `report` for each file that it cannot compress,
/// with its name.
fn compress_all(dir: &Path, stop: &AtomicBool, report: &mut dyn FnMut(&str, &io::Error)) {
    let files = match retired_files(dir) {
        Ok(files) => files,
        Err(error) => return report("", &error),
    };
    for file in files.into_iter().filter(|file| file.form == Form::Plain) {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let done = Job::new(dir, file.first_seq).run(stop);
        if let Err(error) = done
            && !stop.load(Ordering::Acquire)
        {
            report(&file.name(), &error);
        }
    }
}

/// The compression of one file.
struct Job<'a> {
    dir: &'a Path,
    original: PathBuf,
    new: PathBuf,
    named: PathBuf,
}

impl<'a> Job<'a> {
    fn new(dir: &'a Path, first_seq: u64) -> Self {
        let named = retired_name(first_seq, Form::Zstd);
        Self {
            dir,
            original: dir.join(retired_name(first_seq, Form::Plain)),
            new: dir.join(format!("{named}{NEW}")),
            named: dir.join(named),
        }
    }

    /// What is left to do. A file that cannot be read or compressed stays as it is.
    fn run(&self, stop: &AtomicBool) -> io::Result<()> {
        if !self.named.try_exists()? {
            return self.compress(stop);
        }
        match is_same(&self.original, &self.named, stop) {
            // Step 3 after a kill.
            Ok(true) => self.remove_original(),
            // One of them is damaged. Both stay, and `verify` reports a damaged original.
            Ok(false) => Err(io::Error::other("there is a compressed file with other content")),
            // The compressed file does not decompress. All that can be read is in the original.
            Err(_) => self.compress(stop),
        }
    }

    /// The three steps.
    fn compress(&self, stop: &AtomicBool) -> io::Result<()> {
        if let Err(error) = self.write(stop) {
            let _ = fs::remove_file(&self.new);
            return Err(error);
        }
        self.name()?;
        self.remove_original()
    }

    /// Step 1.
    fn write(&self, stop: &AtomicBool) -> io::Result<()> {
        let mut original = open_to_read(&self.original)?;
        let bytes = original.metadata()?.len();
        let mut encoder = zstd::Encoder::new(create_new(&self.new)?, LEVEL)?;
        encoder.include_checksum(true)?;
        encoder.set_pledged_src_size(Some(bytes))?;
        let mut chunk = vec![0; CHUNK];
        loop {
            check_running(stop)?;
            match original.read(&mut chunk)? {
                0 => break,
                read => encoder.write_all(&chunk[..read])?,
            }
        }
        let new = encoder.finish()?;
        if !is_same(&self.original, &self.new, stop)? {
            return Err(io::Error::other("the compressed file differs"));
        }
        new.sync_all()?;
        // After a long fsync the log may be closed, and another process may compress the same file.
        check_running(stop)
    }

    /// Step 2.
    fn name(&self) -> io::Result<()> {
        fs::rename(&self.new, &self.named)?;
        self.sync()
    }

    /// Step 3.
    fn remove_original(&self) -> io::Result<()> {
        fs::remove_file(&self.original)?;
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        File::open(self.dir)?.sync_all()
    }
}

/// An error once the thread is to stop.
fn check_running(stop: &AtomicBool) -> io::Result<()> {
    if stop.load(Ordering::Acquire) { Err(io::Error::other("the log is closed")) } else { Ok(()) }
}

/// Whether `compressed` decompresses to `original`.
fn is_same(original: &Path, compressed: &Path, stop: &AtomicBool) -> io::Result<bool> {
    let mut original = BufReader::with_capacity(CHUNK, open_to_read(original)?);
    let mut decoded = zstd::Decoder::new(open_to_read(compressed)?)?;
    let (mut expected, mut found) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        check_running(stop)?;
        let read = decoded.read(&mut found)?;
        if read == 0 {
            return Ok(original.read(&mut expected[..1])? == 0);
        }
        match original.read_exact(&mut expected[..read]) {
            Ok(()) if expected[..read] == found[..read] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{key, record, settings, verify};
    use crate::{Audit, HeadRow, Settings};

    static RUNNING: AtomicBool = AtomicBool::new(false);

    /// A log of several files, none compressed, and the row of its head.
    async fn log(dir: &Path) -> HeadRow {
        let small = Settings { max_bytes: 2000, compress: false, ..settings(dir) };
        let audit = Audit::open(small, key(1), HeadRow::Missing).expect("opens");
        for _ in 0..60 {
            audit.append(record("r")).await.expect("is written");
        }
        audit.flush().await.expect("is flushed");
        let row = audit.keep_head().expect("kept").expect("nothing to record");
        audit.close().await.expect("closes");
        HeadRow::Kept(row)
    }

    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).expect("lists").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }

    /// Compresses all files, and returns the names of those that cannot be.
    fn failures(dir: &Path, stop: &AtomicBool) -> Vec<String> {
        let mut failures = Vec::new();
        compress_all(dir, stop, &mut |file, _| failures.push(file.to_owned()));
        failures
    }

    /// A test that waits so long has failed, however busy the machine is.
    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn the_thread_ends_while_the_writer_is_stuck_and_a_stuck_thread_is_not_awaited() {
        let dir = tempfile::tempdir().expect("a directory");
        let (compressor, _of_the_writer) = Compressor::start(dir.path(), Arc::default()).expect("starts");
        assert!(compressor.stop(LONG));
        let (resume, stuck) = channel::<()>();
        let (running, ended) = channel();
        let thread = std::thread::spawn(move || {
            let _running: Sender<()> = running;
            let _ = stuck.recv();
        });
        let compressor = Compressor { thread, wakeup: channel().0, stop: Arc::default(), ended };
        assert!(!compressor.stop(Duration::from_millis(20)));
        drop(resume);
    }

    #[tokio::test]
    async fn nothing_is_compared_or_named_once_the_thread_is_to_stop() {
        let dir = tempfile::tempdir().expect("a directory");
        log(dir.path()).await;
        let before = names(dir.path());
        let stop = AtomicBool::new(true);
        let first = dir.path().join(retired_files(dir.path()).expect("lists")[0].name());
        let compressed = dir.path().join("compressed");
        let text = fs::read(&first).expect("reads");
        fs::write(&compressed, zstd::encode_all(&text[..], 3).expect("encodes")).expect("written");
        assert!(is_same(&first, &compressed, &RUNNING).expect("reads"));
        is_same(&first, &compressed, &stop).expect_err("is abandoned");
        fs::remove_file(&compressed).expect("removed");
        Job::new(dir.path(), 1).write(&stop).expect_err("is abandoned");
        assert_eq!(failures(dir.path(), &stop), [""; 0]);
        fs::remove_file(Job::new(dir.path(), 1).new).expect("removed");
        assert_eq!(names(dir.path()), before);
    }

    #[tokio::test]
    async fn a_damaged_original_does_not_replace_its_compressed_form() {
        let dir = tempfile::tempdir().expect("a directory");
        log(dir.path()).await;
        let first = retired_files(dir.path()).expect("lists")[0].first_seq;
        let job = Job::new(dir.path(), first);
        job.write(&RUNNING).expect("written");
        job.name().expect("named");
        let whole = fs::read(&job.named).expect("reads");
        for damaged in [&b""[..], b"half of a file"] {
            fs::write(&job.original, damaged).expect("written");
            assert_eq!(failures(dir.path(), &RUNNING), [retired_name(first, Form::Plain)]);
            assert_eq!(fs::read(&job.named).expect("reads"), whole);
            assert_eq!(fs::read(&job.original).expect("reads"), damaged);
        }
    }

    #[tokio::test]
    async fn a_kill_after_each_step_loses_nothing() {
        for steps in 0..=4 {
            let dir = tempfile::tempdir().expect("a directory");
            let row = log(dir.path()).await;
            let second = retired_files(dir.path()).expect("lists")[1].first_seq;
            let job = Job::new(dir.path(), second);
            match steps {
                0 => fs::write(&job.new, b"half of a frame").expect("written"),
                1 => job.write(&RUNNING).expect("written"),
                2 => {
                    job.write(&RUNNING).expect("written");
                    job.name().expect("named");
                }
                3 => {
                    // A kill that left both, and a file that was compressed from something else.
                    fs::write(&job.named, b"no frame").expect("written");
                }
                _ => {
                    job.write(&RUNNING).expect("written");
                    job.name().expect("named");
                    job.remove_original().expect("removed");
                }
            }
            let before = verify(dir.path(), &key(1), row).expect("reads");
            assert!(before.is_clean() && before.records == 60, "{steps}: {before:?}");
            // The next start.
            let audit = Audit::open(settings(dir.path()), key(1), row).expect("opens");
            assert!(!audit.chain_broken());
            audit.close().await.expect("closes");
            assert_eq!(failures(dir.path(), &RUNNING), [""; 0]);
            let after = verify(dir.path(), &key(1), row).expect("reads");
            assert!(after.is_clean() && after.records == 60, "{steps}: {after:?}");
            let names = names(dir.path());
            let plain: Vec<_> = names.iter().filter(|name| !name.ends_with(".zst")).collect();
            assert_eq!(plain, ["audit.jsonl", "head"], "{steps}: {names:?}");
            assert!(names.len() > 5, "{names:?}");
        }
    }

    #[tokio::test]
    async fn an_obstacle_is_reported_and_the_other_files_are_compressed() {
        let dir = tempfile::tempdir().expect("a directory");
        log(dir.path()).await;
        let files = retired_files(dir.path()).expect("lists");
        let obstacle = Job::new(dir.path(), files[1].first_seq).new;
        fs::create_dir(&obstacle).expect("created");
        fs::write(obstacle.join("a-file"), "").expect("written");
        for _ in 0..2 {
            assert_eq!(failures(dir.path(), &RUNNING), [files[1].name()]);
        }
        let plain = retired_files(dir.path()).expect("lists");
        let plain: Vec<_> = plain.iter().filter(|file| file.form == Form::Plain).collect();
        assert_eq!(plain.iter().map(|file| file.name()).collect::<Vec<_>>(), [files[1].name()]);
        fs::remove_dir_all(&obstacle).expect("removed");
        assert_eq!(failures(dir.path(), &RUNNING), [""; 0]);
        assert!(retired_files(dir.path()).expect("lists").iter().all(|file| file.form == Form::Zstd));
    }

    #[tokio::test]
    async fn a_full_file_is_compressed_while_the_log_is_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let small = Settings { max_bytes: 2000, compress: true, ..settings(dir.path()) };
        let audit = Audit::open(small, key(1), HeadRow::Missing).expect("opens");
        for _ in 0..60 {
            audit.append(record("r")).await.expect("is written");
        }
        let is_done =
            || retired_files(dir.path()).is_ok_and(|files| files.iter().all(|file| file.form == Form::Zstd));
        for _ in 0..3000 {
            if is_done() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(is_done(), "{:?}", names(dir.path()));
        audit.close().await.expect("closes");
        let report = verify(dir.path(), &key(1), HeadRow::NotYet).expect("reads");
        assert!(report.is_clean() && report.records == 60 && report.files > 5, "{report:?}");
        for name in names(dir.path()) {
            use std::os::unix::fs::MetadataExt as _;
            assert_eq!(fs::metadata(dir.path().join(name)).expect("there").mode() & 0o777, 0o600);
        }
    }

    #[tokio::test]
    async fn an_edited_compressed_file_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let row = log(dir.path()).await;
        assert_eq!(failures(dir.path(), &RUNNING), [""; 0]);
        let files = retired_files(dir.path()).expect("lists");
        let path = dir.path().join(files[2].name());
        let whole = fs::read(&path).expect("reads");
        let text = zstd::decode_all(&whole[..]).expect("decodes");
        for at in (0..whole.len()).step_by(7) {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            fs::write(&path, &changed).expect("writes");
            let report = verify(dir.path(), &key(1), row).expect("reads");
            // The format has a few bits that do not change the content.
            let is_same = zstd::decode_all(&changed[..]).is_ok_and(|changed| changed == text);
            assert_eq!(report.is_clean(), is_same, "byte {at}");
            fs::write(&path, &whole[..at]).expect("writes");
            assert!(!verify(dir.path(), &key(1), row).expect("reads").is_clean(), "cut at {at}");
        }
        // Compressed again with an edit inside: a whole frame.
        let text = String::from_utf8(text).expect("UTF-8").replacen("192.0.2.1", "192.0.2.2", 1);
        fs::write(&path, zstd::encode_all(text.as_bytes(), 3).expect("encodes")).expect("writes");
        let report = verify(dir.path(), &key(1), row).expect("reads");
        assert_eq!(report.problems.len(), 1, "{report:?}");
        assert_eq!(report.problems[0].kind, crate::ProblemKind::WrongMac);
        fs::write(&path, &whole).expect("writes");
        assert!(verify(dir.path(), &key(1), row).expect("reads").is_clean());
        // Two files swapped.
        let other = dir.path().join(files[3].name());
        fs::rename(&path, dir.path().join("aside")).expect("renamed");
        fs::rename(&other, &path).expect("renamed");
        fs::rename(dir.path().join("aside"), &other).expect("renamed");
        assert!(!verify(dir.path(), &key(1), row).expect("reads").is_clean());
    }
}

//! Processes under measurement: pinned to a core, measured, and stopped when their handle is dropped.

use std::path::Path;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores that this process may use.
fn cores() -> &'static [usize] {
    static CORES: OnceLock<Vec<usize>> = OnceLock::new();
    CORES.get_or_init(|| {
        let ours = sched_getaffinity(None).unwrap_or_default();
        (0..CpuSet::MAX_CPU).filter(|core| ours.is_set(*core)).collect()
    })
}

/// The core of the measured program: the first.
pub(crate) fn server_core() -> usize {
    cores().first().copied().unwrap_or(0)
}

/// This many cores, from the first on.
pub(crate) fn first_cores(count: usize) -> Vec<usize> {
    cores().iter().copied().take(count).collect()
}

/// The core of the generator: the second.
///
/// # Errors
/// When there is only one core.
pub(crate) fn generator_core() -> Result<usize> {
    let second = cores().get(1).copied();
    second.context("two cores are needed: one for the server, one for the generator")
}

/// Pins this thread, and the processes that it starts from now on, to one core.
///
/// # Errors
/// When the core may not be used.
pub(crate) fn pin(core: usize) -> Result<()> {
    pin_to(&[core])
}

fn pin_to(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    sched_setaffinity(None, &set).context("this process cannot be pinned to a core")
}

/// Raises the limit of open files of this process and its children to the system's maximum.
///
/// # Errors
/// When the limit cannot be raised.
pub(crate) fn raise_file_limit() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("the limit of open files")
}

/// A program on the server's core. Stopped when dropped.
pub(crate) struct Process {
    child: Child,
    /// The signal that stops it.
    ending: Signal,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        Self::start_on(&[server_core()], command)
    }

    /// Starts it on these cores.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start_on(cores: &[usize], command: &mut Command) -> Result<Self> {
        // A child has the cores of the thread that starts it.
        let ours = sched_getaffinity(None)?;
        pin_to(cores)?;
        let child = command.spawn();
        sched_setaffinity(None, &ours)?;
        let child = child.with_context(|| format!("{:?} cannot be started", command.get_program()))?;
        // nginx and PostgreSQL end their children when they receive a stop signal, not when they are killed.
        Ok(Self { child, ending: Signal::QUIT })
    }

    /// Sets the signal that stops it.
    pub(crate) fn ended_by(mut self, ending: Signal) -> Self {
        self.ending = ending;
        self
    }

    /// The resources that it and its descendants have used.
    pub(crate) fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for pid in family(self.child.id()) {
            usage.cpu += cpu_of(pid);
            usage.memory += memory_of(pid);
        }
        usage
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Stops it in order, and waits for its exit.
    ///
    /// # Errors
    /// When it exits with an error.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "a server ended with {status}");
        Ok(())
    }

    /// Kills it.
    pub(crate) fn kill(mut self) {
        // Reaped when it is dropped.
        let _ = self.child.kill();
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(pid, signal)?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_alive() {
            let _ = self.signal(self.ending);
            let end = Instant::now() + Duration::from_secs(2);
            while self.is_alive() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The resources that processes have used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Time on a processor, since they started.
    pub(crate) cpu: Duration,
    /// Resident memory in bytes (`VmRSS`). A page shared between them counts in each.
    pub(crate) memory: u64,
}

/// A process and its descendants.
fn family(root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let children: Vec<_> = tasks
            .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
            .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
            .collect();
        all.extend(children);
        next += 1;
    }
    all
}

/// The time that a process's threads have run, in nanoseconds. That of `stat` has ticks of 10 ms.
fn cpu_of(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanos = tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum();
    Duration::from_nanos(nanos)
}

fn memory_of(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    kib("VmRSS:") * 1024
}

/// The bytes of the files in a folder and below it.
pub(crate) fn size_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok().map(|meta| (entry.path(), meta)))
        .map(|(path, meta)| if meta.is_dir() { size_of(&path) } else { meta.len() })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_used_what_it_and_its_children_have() {
        let spin = "spin() { i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 5; }; spin & spin";
        let mut process = Process::start(Command::new("sh").args(["-c", spin])).expect("a shell");
        let end = Instant::now() + Duration::from_secs(20);
        let mut usage = process.usage();
        while usage.cpu < Duration::from_millis(20) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
            usage = process.usage();
        }
        assert!(usage.cpu >= Duration::from_millis(20) && usage.memory > 100_000, "{usage:?}");
        assert!(family(process.child.id()).len() >= 2);
        assert!(process.is_alive());
    }

    #[test]
    fn a_child_is_pinned_and_its_parent_is_not() {
        let before = sched_getaffinity(None).expect("cores").count();
        let mut process = Process::start(Command::new("sleep").arg("60")).expect("sleep");
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", process.child.id())).expect("a status");
        let allowed = format!("Cpus_allowed_list:\t{}\n", server_core());
        assert!(status.contains(&allowed), "{status}");
        assert_eq!(sched_getaffinity(None).expect("cores").count(), before);
        assert!(process.is_alive());
    }

    #[test]
    fn a_folder_has_the_size_of_all_files_below_it() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("a")).expect("a folder");
        std::fs::write(dir.path().join("a/b"), [0; 700]).expect("a file");
        std::fs::write(dir.path().join("c"), [0; 30]).expect("a file");
        assert_eq!(size_of(dir.path()), 730);
    }
}

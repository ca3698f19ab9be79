//! The KMS plugin of this project, `agentrouter-secrets-kms`, as a child of this process.
//!
//! A thread starts it, waits for its end, and starts it again after a pause that grows. The plugin serves a socket in a
//! directory that only this user can enter. Its command line has no secret: credentials are in the environment. Its standard
//! input is a pipe of this process, so it reads the end of file when this process ends, however it ends.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use agentrouter_keyring::RootError;
use anyhow::Context as _;
use tokio::time::Instant;

use crate::Advised;

/// The name of the program.
pub(super) const PROGRAM: &str = "agentrouter-secrets-kms";
/// The name of the directory of a process, before the process's id.
const DIRECTORY: &str = "kms-";
/// How long the plugin may take from its start until it serves.
const START: Duration = Duration::from_secs(10);
/// How often the socket is looked for during the start.
const LOOK: Duration = Duration::from_millis(10);
/// How long the plugin may take to end after its standard input is closed.
const END: Duration = Duration::from_secs(2);
/// The first and the longest pause before it is started again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// A plugin that has run for so long gets the first pause again.
const STABLE: Duration = Duration::from_secs(60);
/// The longest path of a socket.
const MAX_PATH: usize = 100;

/// The plugin. It ends when this is dropped.
pub(super) struct Child {
    command: PluginCommand,
    shared: Arc<Shared>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

struct PluginCommand {
    program: PathBuf,
    provider: &'static str,
    key: String,
    endpoint: Option<String>,
    directory: PathBuf,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    running: Option<std::process::Child>,
    stopping: bool,
    /// Why the last start failed.
    fault: Option<String>,
}

impl Child {
    /// The plugin for `provider`, which `setting` names. It is not started yet.
    ///
    /// # Errors
    /// When the program is not installed.
    pub(super) fn new(
        setting: &str,
        provider: &'static str,
        key: String,
        endpoint: Option<String>,
        data_dir: &Path,
    ) -> anyhow::Result<Self> {
        let program = find().context(Advised::new(
            format!("{setting} is '{provider}', and the program {PROGRAM} is not installed"),
            "install it beside agentrouter-secrets, or in a directory of PATH",
        ))?;
        Ok(Self::with_program(program, provider, key, endpoint, data_dir))
    }

    pub(super) fn with_program(
        program: PathBuf,
        provider: &'static str,
        key: String,
        endpoint: Option<String>,
        data_dir: &Path,
    ) -> Self {
        let own = format!("{DIRECTORY}{}", std::process::id());
        let data_dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        let mut directory = data_dir.join(&own);
        if directory.as_os_str().len() > MAX_PATH {
            directory = std::env::temp_dir().join(own);
        }
        let command = PluginCommand { program, provider, key, endpoint, directory };
        Self { command, shared: Arc::default(), supervisor: Mutex::default() }
    }

    /// Starts the plugin if it is not started yet, and waits until it has its socket. Returns the socket.
    pub(super) fn start(&self) -> Result<PathBuf, RootError> {
        let socket = self.command.socket();
        {
            let mut supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner);
            if supervisor.is_none() {
                // The socket of an earlier process with this id, which was killed.
                let _ = std::fs::remove_file(&socket);
                self.command.remove_stale();
                let (command, shared) = (self.command.clone(), Arc::clone(&self.shared));
                let supervise = move || supervise(&command, &shared);
                let thread = std::thread::Builder::new().name("kms".to_owned()).spawn(supervise);
                *supervisor =
                    Some(thread.map_err(|error| RootError::Unreachable { what: error.to_string() })?);
            }
        }
        let deadline = Instant::now() + START;
        while !socket.exists() {
            if let Some(fault) = self.shared.lock().fault.clone() {
                return Err(RootError::Unreachable { what: fault });
            }
            if Instant::now() > deadline {
                return Err(RootError::Unreachable { what: format!("{PROGRAM} does not serve") });
            }
            std::thread::sleep(LOOK);
        }
        Ok(socket)
    }

    /// Kills a plugin that hangs. It is started again.
    pub(super) fn restart(&self) {
        if let Some(running) = &mut self.shared.lock().running {
            tracing::warn!("{PROGRAM} does not respond: it is started again");
            // It may have ended by itself.
            let _ = running.kill();
        }
    }

    /// The id of its process, if it runs.
    #[cfg(test)]
    pub(super) fn process_id(&self) -> Option<u32> {
        self.shared.lock().running.as_ref().map(std::process::Child::id)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.stopping = true;
            if let Some(running) = &mut state.running {
                // Closed: the plugin ends.
                drop(running.stdin.take());
            }
        }
        self.shared.changed.notify_all();
        let supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(supervisor) = supervisor {
            // A panic of the thread was reported.
            let _ = supervisor.join();
        }
        let _ = std::fs::remove_dir_all(&self.command.directory);
    }
}

impl Clone for PluginCommand {
    fn clone(&self) -> Self {
        Self {
            program: self.program.clone(),
            provider: self.provider,
            key: self.key.clone(),
            endpoint: self.endpoint.clone(),
            directory: self.directory.clone(),
        }
    }
}

impl PluginCommand {
    fn socket(&self) -> PathBuf {
        self.directory.join("kms.sock")
    }

    /// Removes the directories of processes that were killed. One that cannot be removed stays.
    fn remove_stale(&self) {
        let beside = self.directory.parent().and_then(|parent| std::fs::read_dir(parent).ok());
        for entry in beside.into_iter().flatten().flatten() {
            let name = entry.file_name();
            let process = name.to_str().and_then(|name| name.strip_prefix(DIRECTORY)?.parse::<u32>().ok());
            let is_gone = process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists());
            // Not through a link.
            if is_gone && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }

    fn spawn(&self) -> std::io::Result<std::process::Child> {
        // Without what an earlier process with this id left.
        if self.directory.exists() {
            std::fs::remove_dir_all(&self.directory)?;
        }
        if let Some(parent) = self.directory.parent() {
            // The data directory of a new server does not exist yet.
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        DirBuilder::new().mode(0o700).create(&self.directory)?;
        let mut command = Command::new(&self.program);
        command
            .arg(self.provider)
            .arg("--child")
            .arg("--socket")
            .arg(self.socket())
            .arg("--key")
            .arg(&self.key);
        if let Some(endpoint) = &self.endpoint {
            command.arg("--endpoint").arg(endpoint);
        }
        // In a group of its own: an interrupt from the keyboard is for the server, which then ends the plugin.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0).spawn()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `time`, or until the plugin is to stop. Returns whether it is.
    fn pause(&self, time: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), time, |state| !state.stopping);
        waited.unwrap_or_else(PoisonError::into_inner).0.stopping
    }
}

/// Runs the plugin until it is to stop.
fn supervise(command: &PluginCommand, shared: &Shared) {
    let mut pause = PAUSES.0;
    loop {
        let began = Instant::now();
        let spawned = command.spawn();
        let what = match spawned {
            Ok(child) => {
                {
                    let mut state = shared.lock();
                    state.running = Some(child);
                    state.fault = None;
                }
                let ended = wait(shared);
                // A call that looks for the socket does not find that of a plugin that has ended.
                let _ = std::fs::remove_file(command.socket());
                format!("{PROGRAM} ended: {ended}")
            }
            Err(error) => format!("{} cannot be started: {error}", command.program.display()),
        };
        if shared.lock().stopping {
            return;
        }
        tracing::warn!("{what}; it is started again in {} ms", pause.as_millis());
        shared.lock().fault = Some(what);
        if began.elapsed() >= STABLE {
            pause = PAUSES.0;
        }
        if shared.pause(pause) {
            return;
        }
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Waits until the plugin has ended, and ends one that does not stop in time. Returns how it ended.
fn wait(shared: &Shared) -> String {
    let mut stopping_since = None;
    loop {
        {
            let mut state = shared.lock();
            let stopping = state.stopping;
            let Some(running) = &mut state.running else { return String::new() };
            match running.try_wait() {
                Ok(None) => {}
                ended => {
                    state.running = None;
                    return ended.map_or_else(
                        |error| error.to_string(),
                        |s| s.map_or_else(String::new, |s| s.to_string()),
                    );
                }
            }
            if stopping {
                drop(running.stdin.take());
                let since = *stopping_since.get_or_insert_with(Instant::now);
                if since.elapsed() > END {
                    let _ = running.kill();
                }
            }
        }
        // Notified when it is to stop; otherwise the end of the plugin is noticed after this time.
        if shared.pause(Duration::from_millis(100)) {
            std::thread::sleep(LOOK);
        }
    }
}

/// The program beside this one, or in a directory of `PATH`.
fn find() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(PROGRAM)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> =
        std::env::split_paths(&path).map(|directory| directory.join(PROGRAM)).collect();
    beside.into_iter().chain(directories).find(|program| program.is_file())
}

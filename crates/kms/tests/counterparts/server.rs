//! `agentrouter-secrets` with a root key: it wraps its KEKs by the plugin, which it runs itself for a provider by name.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use agentrouter_testkit::ServerProcess;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::page::{installed, run};
use crate::plugin::LONG;

/// The pause between two looks at something that is awaited.
const LOOK: Duration = Duration::from_millis(20);

/// A server on a data directory of its own.
pub(crate) struct Server {
    process: Option<ServerProcess>,
    folder: TempDir,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Server {
    /// Starts a new server. Its KEKs are checked four times a second.
    pub(crate) fn start(arguments: &[&str], environment: &[(&str, &OsStr)]) -> Self {
        let text = |value: &OsStr| value.to_str().expect("UTF-8").to_owned();
        let folder = tempfile::tempdir().expect("a folder");
        let mut environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect();
        if !environment.iter().any(|(name, _)| name == "HOME") {
            environment.push(("HOME".to_owned(), text(folder.path().as_os_str())));
        }
        let arguments = [arguments, &["--kek-recheck", "250ms"]].concat();
        let arguments = arguments.into_iter().map(str::to_owned).collect();
        let mut server = Self { process: None, folder, arguments, environment };
        server.start_again();
        server
    }

    /// Starts a new server with a provider by name.
    pub(crate) fn of(
        provider: &str,
        key: &str,
        address: Option<&str>,
        environment: &[(&str, &OsStr)],
    ) -> Self {
        let mut arguments = vec!["--kek-provider", provider, "--kek-key", key];
        arguments.extend(address.iter().flat_map(|address| ["--kek-endpoint", address]));
        Self::start(&arguments, environment)
    }

    /// Kills the server, if it runs, and starts it on the same data.
    pub(crate) fn start_again(&mut self) {
        if let Some(running) = self.process.take() {
            running.kill();
        }
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let environment: Vec<(&str, &str)> =
            self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let program = installed("AGENTROUTER_TEST_SERVER");
        self.process = Some(ServerProcess::start_with(
            &program,
            &self.folder.path().join("data"),
            &arguments,
            &environment,
        ));
    }

    fn process(&self) -> &ServerProcess {
        self.process.as_ref().expect("it runs")
    }

    /// Calls the API with a body. Returns the response.
    fn call(&self, path: &str, body: &str) -> String {
        let process = self.process();
        let (key, url) = (process.bootstrap_key(), &process.url);
        run(
            &format!(
                "curl -sS {url}{path} -H 'authorization: Bearer ak-{key}' -H 'content-type: application/json' \
                 -d '{body}'"
            ),
            self.folder.path(),
            &[],
        )
    }

    /// Creates a secret.
    pub(crate) fn write(&self) {
        let response = self.call("/v1/secrets", r#"{"name":"openai","realm":"mcp","value":"sk-1"}"#);
        assert!(response.contains("\"name\":\"openai\""), "{response}");
    }

    /// Whether the value of the secret can be read. Fails if it cannot be read for another reason than missing KEKs.
    pub(crate) fn reads(&self) -> bool {
        let response = self.call("/v1/secrets/openai/value", r#"{"realm":"mcp"}"#);
        let reads = response.contains("\"value\":\"sk-1\"");
        assert!(reads || response.contains("KEK_UNAVAILABLE"), "{response}");
        reads
    }

    /// Whether the server is ready.
    pub(crate) fn is_ready(&self) -> bool {
        let url = &self.process().url;
        let head =
            run(&format!("curl -sS -o /dev/null -w '%{{http_code}}' {url}/readyz"), self.folder.path(), &[]);
        head == "200"
    }

    /// The value of a metric without labels.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = run(&format!("curl -sSf {}/metrics", self.process().url), self.folder.path(), &[]);
        let name = format!("agentrouter_secrets_{name} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {name}in {text}"))
    }

    /// The KEK file.
    pub(crate) fn kek_file(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("data/kek.json")).expect("a KEK file")
    }

    /// What the server and its plugin have logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(ServerProcess::log_of(&self.folder.path().join("data"))).expect("a log")
    }

    /// The process of the plugin, when it serves.
    fn plugin(&self) -> u32 {
        let server = self.process().id();
        let socket = self.folder.path().join(format!("data/kms-{server}/kms.sock"));
        let mut found = None;
        until("the plugin serves", || {
            found = children(server).into_iter().find(|id| program(*id).is_some_and(|path| path == beside()));
            found.is_some() && socket.exists()
        });
        found.expect("a process")
    }
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LONG, "it did not happen in time: {what}");
        std::thread::sleep(LOOK);
    }
}

/// The program of the plugin beside that of the server.
fn beside() -> PathBuf {
    let plugin = installed("AGENTROUTER_TEST_SERVER").with_file_name("agentrouter-secrets-kms");
    plugin.canonicalize().expect("the plugin is built")
}

/// The program of a process.
fn program(process: u32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{process}/exe")).ok()
}

/// The process ids of a process's children.
fn children(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("/proc");
    let ids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| parent_of(*id) == Some(parent)).collect()
}

fn parent_of(process: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name is in parentheses, and may have any character.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Whether a process runs. One that nobody has waited for does not.
fn is_running(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Checks that a new server wraps its KEKs, and that one which is started after a kill has the same KEKs.
pub(crate) fn keeps_its_keks(
    provider: &str,
    key: &str,
    address: Option<&str>,
    environment: &[(&str, &OsStr)],
) -> Server {
    let mut server = Server::of(provider, key, address, environment);
    let file = server.kek_file();
    assert!(file.contains(&format!("\"{provider}\"")), "{file}");
    assert!(!file.contains("\"key\""), "a KEK is in clear: {file}");
    server.write();
    let plugin = server.plugin();
    server.start_again();
    assert!(server.reads());
    until("the plugin has ended with its server", || !is_running(plugin));
    server
}

/// Checks the plugin of a server: its program is the one beside the server's, no secret is on its command line, and it is
/// started again when it is killed.
pub(crate) fn runs_its_plugin(server: &Server, secret: &str) {
    for pause in ["250 ms", "500 ms", "1000 ms"] {
        let plugin = server.plugin();
        let command = std::fs::read(format!("/proc/{plugin}/cmdline")).expect("it runs");
        let command = String::from_utf8_lossy(&command);
        assert!(command.contains("--child") && !command.contains(secret), "{command}");
        run(&format!("kill -KILL {plugin}"), server.folder.path(), &[]);
        until("the end of the plugin is noticed", || {
            !is_running(plugin) && server.log().contains(&format!("started again in {pause}"))
        });
        assert!(server.reads(), "the KEKs are in memory");
    }
    server.plugin();
    let checks = || server.metric("kek_checks_total");
    let before = checks();
    until("the KEKs are checked again", || checks() > before);
    assert!(server.is_ready() && !server.log().contains(secret));
}

//! The settings of a server: one table, read from flag, environment, file and default, in this order.
//!
//! [`Settings`] is the table. A field is a setting; its comment is the help text of `--help` and of `docs/settings.md`.
//! The setting `audit.sync` is the flag `--audit-sync`, the variable `AGENTROUTER_SECRETS_AUDIT_SYNC` and the key `sync`
//! in the table `[audit]` of the TOML file. Flag and variable are made from the field's `id`.
//!
//! [`parse`] reads a command line. The values of the file become the defaults of the flags, so that every layer is
//! parsed by the same parser. No value is repeated in an error: it may be a password.
//!
//! A duration is written as numbers with units, such as `500ms`, `30s`, `24h`, `90d` or `1h 30m`: the grammar of the
//! crate `humantime`, as everywhere in this project.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use agentrouter_identity::IdentitySettings;
use agentrouter_keyring::KekFile;
use agentrouter_postgres::{ConnectOptions, FileSource};
use anyhow::{Context as _, bail};
use bytesize::ByteSize;
use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, Parser, ValueEnum};
use http::HeaderValue;
use ipnet::IpNet;
use tracing::level_filters::LevelFilter;

use crate::Advised;
pub use crate::listen_address::ListenAddress;

/// The heading of the settings in help texts, which tells them from a command's own flags.
const HEADING: &str = "Settings";
/// The settings that the help of every command lists. The help of `serve` lists all.
const COMMON: [&str; 10] = [
    "data-dir",
    "database.url",
    "database.password-file",
    "kek-file",
    "kek.provider",
    "kek.key",
    "kek.socket",
    "kek.passphrase-file",
    "log.level",
    "log.format",
];
/// The longest duration of any setting.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// The settings.
#[allow(rustdoc::bare_urls, reason = "the comments of the fields are the texts of --help")]
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = HEADING)]
pub struct Settings {
    /// TOML file with settings; flags and environment variables override it
    #[arg(value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Issuers of tokens and certificates, from the tables `[[issuer]]` of the file. They have no flags and no variables.
    #[arg(skip)]
    pub identity: IdentitySettings,
    /// Directory of the embedded database, the KEK file and the audit log
    #[arg(id = "data-dir", value_name = "DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    /// URL of a PostgreSQL database to use instead of the embedded one, such as postgres://user@host/database; see docs/postgres.md
    #[arg(id = "database.url", value_name = "URL")]
    pub database_url: Option<Hidden>,
    /// File with the password for database.url, read again for each connection; without it the password is the URL's, or that of the variable PGPASSWORD
    #[arg(id = "database.password-file", value_name = "FILE")]
    pub database_password_file: Option<PathBuf>,
    /// Longest time to wait for PostgreSQL at the start; 0s means no wait
    #[arg(id = "database.start-time", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub database_start_time: Duration,
    /// Whether the URL came as a flag, where other users of the machine see it.
    #[arg(skip)]
    pub database_url_is_flag: bool,
    /// The password file, once it is used. It is shared by all copies of the settings, because a pipe is read only once.
    #[arg(skip)]
    pub(crate) password: Arc<OnceLock<FileSource>>,
    /// The database of `database_url`, once it is used.
    #[arg(skip)]
    pub(crate) target: Arc<OnceLock<ConnectOptions>>,
    /// The KEK file, if it is not DATA_DIR/kek.json
    #[arg(id = "kek-file", value_name = "FILE")]
    kek_file: Option<PathBuf>,
    #[allow(missing_docs, reason = "clap would take the comment for the command's")]
    #[command(flatten)]
    pub kek: KekSettings,
    /// Stored versions that the sweep opens in a second, to find those that do not open; 0 means no sweep
    #[arg(id = "sweep.rate", value_name = "NUMBER", default_value = "50", value_parser = number)]
    pub sweep_rate: u32,
    /// Time from the start of a sweep of all versions to the start of the next
    #[arg(id = "sweep.interval", value_name = "DURATION", default_value = "1h", value_parser = deadline)]
    pub sweep_interval: Duration,
    /// The KEK file with its root key, once it is used. It is shared by all copies of the settings, because a passphrase is
    /// read only once, and a plugin is started only once.
    #[arg(skip)]
    pub(crate) kek_with_root: Arc<OnceLock<KekFile>>,
    /// Least severity logged: error, warn, info, debug or trace
    #[arg(id = "log.level", value_name = "LEVEL", default_value = "info", value_parser = log_level)]
    pub log_level: LevelFilter,
    /// Format of log lines; auto is pretty on a terminal, else json
    #[arg(id = "log.format", value_name = "FORMAT", default_value = "auto")]
    pub log_format: LogFormat,
    /// Most memory for log lines that wait to be written; further ones are dropped and counted
    #[arg(id = "log.buffer", value_name = "BYTES", default_value = "1MiB", value_parser = buffer)]
    pub log_buffer: usize,
    /// Log lines per second that one client address may cause, a hundred times as many for all addresses; further ones are dropped and counted; 0 means no limit
    #[arg(id = "log.client-rate", value_name = "NUMBER", default_value = "1", value_parser = number)]
    pub log_client_rate: u32,
    /// Address and port to listen on, port 0 takes a free one; or unix:PATH for a Unix socket; or several, separated by commas
    #[arg(value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_delimiter = ',', value_parser = address)]
    pub listen: Vec<ListenAddress>,
    /// PEM file with the certificate chain; with tls.key, turns TLS on; read again when it changes
    #[arg(id = "tls.cert", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// PEM file with the private key of tls.cert
    #[arg(id = "tls.key", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Origins whose pages may call the API from a browser, separated by commas, such as https://app.example.com; unset means only the server's own
    #[arg(id = "cors.origins", value_name = "ORIGINS", value_delimiter = ',', value_parser = origin)]
    pub cors_origins: Vec<HeaderValue>,
    /// Grace period of a rotation that gives none
    #[arg(value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub grace: Duration,
    /// Most memory for the cache of sealed rows
    #[arg(id = "cache.size", value_name = "BYTES", default_value = "64MiB", value_parser = bytes)]
    pub cache_bytes: u64,
    /// Size at which the audit log starts a new file, 64KiB or more
    #[arg(id = "audit.max-size", value_name = "BYTES", default_value = "64MiB", value_parser = audit_max_size)]
    pub audit_max_bytes: u64,
    /// When an audit record counts as written: second (handed to the kernel, on disk within a second) or fsync (on disk)
    #[arg(id = "audit.sync", value_name = "MODE", default_value = "second")]
    pub audit_sync: AuditSync,
    /// Compression of the full files of the audit log: zstd or none
    #[arg(id = "audit.compression", value_name = "METHOD", default_value = "zstd")]
    pub audit_compression: AuditCompression,
    /// File that always has the newest checkpoint of the audit log, on another host's disk; see docs/audit.md
    #[arg(id = "audit.checkpoint-file", value_name = "FILE")]
    pub audit_checkpoint_file: Option<PathBuf>,
    /// Program that gets each checkpoint of the audit log on standard input, without arguments
    #[arg(id = "audit.checkpoint-command", value_name = "PROGRAM")]
    pub audit_checkpoint_command: Option<PathBuf>,
    /// Address to which each checkpoint of the audit log is sent by HTTP POST, such as https://log.example.com/checkpoints
    #[arg(id = "audit.checkpoint-url", value_name = "URL", value_parser = endpoint)]
    pub audit_checkpoint_url: Option<String>,
    /// Time between two checkpoints of the audit log
    #[arg(id = "audit.checkpoint-interval", value_name = "DURATION", default_value = "1m", value_parser = deadline)]
    pub audit_checkpoint_interval: Duration,
    /// Address to which the records of the audit log are sent as logs by OTLP over HTTP, such as http://127.0.0.1:4318; unset means that none are sent
    #[arg(id = "audit.otlp-endpoint", value_name = "URL", value_parser = collector)]
    pub audit_otlp_endpoint: Option<String>,
    #[allow(missing_docs, reason = "clap would take the comment for the command's")]
    #[command(flatten)]
    pub limits: Limits,
    /// How long the server still accepts requests after the signal to stop, while /readyz returns 503; a second signal ends the wait
    #[arg(id = "drain-time", value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub drain_time: Duration,
    /// Longest time for requests in progress at shutdown
    #[arg(id = "shutdown-time", value_name = "DURATION", default_value = "20s", value_parser = duration)]
    pub shutdown_time: Duration,
    /// Comma-separated addresses and networks, such as 10.0.0.0/8, of load balancers whose X-Forwarded-For is trusted; unset means none
    #[arg(id = "trusted-proxies", value_name = "LIST", value_delimiter = ',', value_parser = network)]
    pub trusted_proxies: Vec<IpNet>,
    /// Worker threads; 0 means one per processor
    #[arg(value_name = "NUMBER", default_value = "0", value_parser = threads)]
    pub threads: usize,
    /// Address for traces by OTLP over HTTP, such as http://127.0.0.1:4318; unset means that none are sent
    #[arg(id = "otlp.endpoint", value_name = "URL", value_parser = collector)]
    pub otlp_endpoint: Option<String>,
}

/// Where the root key of the KEKs is.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = HEADING)]
pub struct KekSettings {
    /// What wraps the KEKs in the KEK file: file (nothing), passphrase, kms-plugin, or a provider of agentrouter-secrets-kms; see docs/kek/README.md
    #[arg(id = "kek.provider", value_name = "NAME", default_value = "file")]
    pub provider: KekProvider,
    /// Name or URI of the root key at the provider
    #[arg(id = "kek.key", value_name = "KEY")]
    pub key: Option<String>,
    /// Unix socket of a KMS plugin (Kubernetes KMS v2), for the provider kms-plugin
    #[arg(id = "kek.socket", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Address of the provider's API, if it is not the usual one
    #[arg(id = "kek.endpoint", value_name = "URL")]
    pub endpoint: Option<String>,
    /// File with the passphrase, for the provider passphrase; without it the passphrase is asked for on the terminal
    #[arg(id = "kek.passphrase-file", value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Number of an open file descriptor with the passphrase, for the provider passphrase
    #[arg(id = "kek.passphrase-fd", value_name = "NUMBER", value_parser = number)]
    pub passphrase_fd: Option<u32>,
    /// Longest time to wait for the root key at the start; 0s means no wait
    #[arg(id = "kek.start-time", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub start_time: Duration,
    /// Time between two checks that the root key may still be used; 0s means that it is not checked
    #[arg(id = "kek.recheck", value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub recheck: Duration,
}

/// What wraps the KEKs in the KEK file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KekProvider {
    /// Nothing: the KEKs are in clear.
    File,
    /// A key derived from a passphrase.
    Passphrase,
    /// A KMS plugin that runs already.
    KmsPlugin,
    /// A secret of Google Secret Manager.
    GcpSecretManager,
    /// Google Cloud KMS.
    GcpKms,
    /// AWS KMS.
    AwsKms,
    /// Azure Key Vault.
    AzureKeyVault,
    /// The Transit engine of Vault or OpenBao.
    VaultTransit,
    /// A key in an HSM.
    Pkcs11,
}

impl KekProvider {
    /// Whether a root key wraps the KEKs.
    pub const fn has_root(self) -> bool {
        !matches!(self, Self::File)
    }

    /// Its spelling in the settings and in the KEK file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Passphrase => "passphrase",
            Self::KmsPlugin => "kms-plugin",
            Self::GcpSecretManager => "gcp-secret-manager",
            Self::GcpKms => "gcp-kms",
            Self::AwsKms => "aws-kms",
            Self::AzureKeyVault => "azure-key-vault",
            Self::VaultTransit => "vault-transit",
            Self::Pkcs11 => "pkcs11",
        }
    }
}

/// Limits on what a client may take.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = HEADING)]
pub struct Limits {
    /// Most connections at once; on further ones only probes get a response, and other requests wait
    #[arg(id = "limit.connections", value_name = "NUMBER", default_value = "16384", value_parser = positive)]
    pub connections: usize,
    /// Most connections at once from one address (IPv6: from one /64) that is not in trusted-proxies; 0 means half of limit.connections
    #[arg(id = "limit.connections-per-address", value_name = "NUMBER", default_value = "0", value_parser = share)]
    pub connections_per_address: usize,
    /// How long an HTTP/2 connection without requests is kept
    #[arg(id = "limit.idle-time", value_name = "DURATION", default_value = "100s", value_parser = deadline)]
    pub idle_time: Duration,
    /// Age at which a connection is closed once its requests are complete, a tenth less for some; 0s means never
    #[arg(id = "limit.connection-age", value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub connection_age: Duration,
    /// HTTP/2 frames per second that cost the server more than the client (PING, SETTINGS, PRIORITY, RST_STREAM, GOAWAY, empty DATA, unknown types, each 32nd WINDOW_UPDATE) on one connection, ten times as many at once and four more for each request; further ones close it; 0 means no limit
    #[arg(id = "limit.control-frames", value_name = "NUMBER", default_value = "100", value_parser = number)]
    pub control_frames: u32,
    /// Longest time until a response is read whole; then its connection is closed, up to a half later
    #[arg(id = "limit.send-time", value_name = "DURATION", default_value = "30s", value_parser = deadline)]
    pub send_time: Duration,
    /// Most bytes of responses on one connection that its client has not read, 1MiB to 1GiB; further requests on it wait
    #[arg(id = "limit.connection-unsent", value_name = "BYTES", default_value = "16MiB", value_parser = unsent)]
    pub connection_unsent: u32,
    /// Most bytes of responses that clients have not read; above it the connection with the most is closed
    #[arg(id = "limit.unsent", value_name = "BYTES", default_value = "256MiB", value_parser = buffer)]
    pub unsent: usize,
    /// Most bytes of metadata in a page of a list, 64KiB to 16MiB; a page that would be larger ends early, with a token
    #[arg(id = "limit.list-size", value_name = "BYTES", default_value = "1MiB", value_parser = list_size)]
    pub list_size: u32,
    /// Most rows read and look-ups in an index for a page of a list, 1000 or more; a page that needs more ends early, with a token
    #[arg(id = "limit.list-steps", value_name = "NUMBER", default_value = "10000", value_parser = list_steps)]
    pub list_steps: usize,
    /// Most versions that one ValidateSecret opens, the newest first; earlier ones are reported as unchecked
    #[arg(id = "limit.validated-versions", value_name = "NUMBER", default_value = "256", value_parser = streams)]
    pub validated_versions: u32,
    /// Most requests in progress at once; further ones get 503
    #[arg(id = "limit.requests", value_name = "NUMBER", default_value = "4096", value_parser = positive)]
    pub requests: usize,
    /// Most HTTP/2 streams at once on one connection
    #[arg(id = "limit.streams", value_name = "NUMBER", default_value = "256", value_parser = streams)]
    pub streams: u32,
    /// Largest request head, 1KiB to 1MiB; further ones get 431
    #[arg(id = "limit.header-size", value_name = "BYTES", default_value = "16KiB", value_parser = header_size)]
    pub header_bytes: usize,
    /// Longest time until a request's head (and TLS handshake) is complete; also how long an idle HTTP/1.1 connection is kept
    #[arg(id = "limit.header-time", value_name = "DURATION", default_value = "10s", value_parser = deadline)]
    pub header_time: Duration,
    /// Longest time until a request's body is complete, and in which a client reads nothing of a response
    #[arg(id = "limit.body-time", value_name = "DURATION", default_value = "10s", value_parser = deadline)]
    pub body_time: Duration,
    /// Requests per second that one API key may make; 0 means limit.user-key-rate for keys without secrets/read/internal, and no limit for the others
    #[arg(id = "limit.key-rate", value_name = "NUMBER", default_value = "0", value_parser = number)]
    pub key_rate: u32,
    /// Requests that one API key may make at once above its rate; 0 means as many as its rate
    #[arg(id = "limit.key-burst", value_name = "NUMBER", default_value = "0", value_parser = number)]
    pub key_burst: u32,
    /// Requests per second of one API key without secrets/read/internal while limit.key-rate is 0, ten times as many at once; 0 means no limit
    #[arg(id = "limit.user-key-rate", value_name = "NUMBER", default_value = "200", value_parser = number)]
    pub user_key_rate: u32,
    /// Failed authentications per second that get 401 for one address, ten times as many at once; further ones get 429; 0 means no limit
    #[arg(id = "limit.failed-auth-rate", value_name = "NUMBER", default_value = "10", value_parser = number)]
    pub failed_auth_rate: u32,
    /// Audit records per second of requests without a valid key, from all addresses together, ten times as many at once; further requests are counted and not recorded; 0 means no limit
    #[arg(id = "limit.unauthenticated-records", value_name = "NUMBER", default_value = "50", value_parser = number)]
    pub unauthenticated_records: u32,
}

/// When an audit record counts as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuditSync {
    /// Handed to the kernel; on disk within a second.
    Second,
    /// On disk.
    Fsync,
}

/// The compression of the full files of the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuditCompression {
    /// Zstandard.
    Zstd,
    /// Files stay as they were written.
    None,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `Pretty` on a terminal, else `Json`.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

/// A text that may hold a password: `Debug` does not show it.
#[derive(Clone)]
pub struct Hidden(String);

impl Hidden {
    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Hidden {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Settings {
    /// The KEK file.
    pub fn kek_file(&self) -> PathBuf {
        self.kek_file.clone().unwrap_or_else(|| self.data_dir.join("kek.json"))
    }

    /// The same settings with the KEK file as it is, whatever its provider.
    #[must_use]
    pub fn with_kek_file(&self, file: KekFile) -> Self {
        Self { kek_with_root: Arc::new(OnceLock::from(file)), ..self.clone() }
    }

    /// The files of the certificate chain and its key, if TLS is on.
    pub fn tls(&self) -> Option<(&Path, &Path)> {
        self.tls_cert.as_deref().zip(self.tls_key.as_deref())
    }
}

/// A setting, as the documentation shows it.
pub struct Setting {
    /// Its name, such as `audit.sync`.
    pub key: String,
    /// The kind of its value, for help texts.
    pub value_name: String,
    /// Its default; empty means unset.
    pub default: String,
    /// Its description, with the unit.
    pub help: String,
    /// Whether the help of every command lists it, or that of `serve` alone.
    pub common: bool,
}

/// Every setting, in the order of [`Settings`].
pub static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    let table = each_setting(Settings::augment_args(Command::new("settings")), &|arg| arg);
    table.get_arguments().filter(|arg| arg.get_id() != "config").map(Setting::of).collect()
});

impl Setting {
    fn of(arg: &Arg) -> Self {
        let first = |texts: Vec<String>| texts.into_iter().next().unwrap_or_default();
        let default = arg.get_default_values().iter().map(|text| text.to_string_lossy().into_owned());
        Self {
            value_name: first(arg.get_value_names().into_iter().flatten().map(ToString::to_string).collect()),
            default: first(default.collect()),
            help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
            common: COMMON.contains(&arg.get_id().as_str()),
            key: arg.get_id().to_string(),
        }
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        variable(&self.key)
    }
}

fn flag(key: &str) -> String {
    key.replace('.', "-")
}

fn variable(key: &str) -> String {
    format!("AGENTROUTER_SECRETS_{}", key.replace(['.', '-'], "_").to_uppercase())
}

/// A command with the flags of its settings.
pub fn command<C: Parser>() -> Command {
    each_setting(C::command(), &|arg| arg)
}

/// Parses a command line whose commands take [`Settings`].
///
/// # Errors
/// A [`clap::Error`] for a command line that is wrong, or that asks for help. Any other error when the file cannot be
/// read or has an unknown key, or when a value breaks its rule; the message names the setting and its source.
pub fn parse<C: Parser + AsMut<Settings>>(line: &[OsString]) -> anyhow::Result<C> {
    // The first pass takes any text. It finds the file, and the source of each value.
    let untyped = each_setting(C::command(), &|arg| arg.value_parser(ValueParser::string()));
    let matches =
        untyped.try_get_matches_from(line).map_err(|error| broken_rule(error, |key| format!("--{key}")))?;
    let matches = innermost(&matches);
    let file = match matches.get_one::<String>("config") {
        Some(path) => read_file(Path::new(path))?,
        None => File::default(),
    };
    let (file, identity) = (file.settings, file.identity);
    let source = |key: &str| match matches.value_source(key) {
        Some(ValueSource::EnvVariable) => variable(key),
        Some(ValueSource::CommandLine) => format!("--{}", flag(key)),
        _ if file.contains_key(key) => format!("'{key}' in the config file"),
        _ => format!("--{}", flag(key)),
    };
    let typed = each_setting(C::command(), &|arg| match file.get(arg.get_id().as_str()) {
        Some(text) if !text.is_empty() => arg.default_value(text),
        _ => arg,
    });
    let mut parsed = typed.try_get_matches_from(line).map_err(|error| broken_rule(error, source))?;
    let mut command = C::from_arg_matches_mut(&mut parsed)?;
    let settings: &mut Settings = command.as_mut();
    settings.identity = identity;
    settings.database_url_is_flag = matches.value_source("database.url") == Some(ValueSource::CommandLine);
    for (given, missing, is_half) in [
        ("tls.cert", "tls.key", settings.tls_cert.is_some() && settings.tls_key.is_none()),
        ("tls.key", "tls.cert", settings.tls_key.is_some() && settings.tls_cert.is_none()),
    ] {
        if is_half {
            let hint = format!("give both or neither: --{} or {}", flag(missing), variable(missing));
            bail!(Advised::new(format!("{} needs '{missing}' beside it", source(given)), hint));
        }
    }
    Ok(command)
}

/// Changes the settings of a command and of its subcommands, and gives each its flag and its variable. An empty variable
/// leaves the setting unset.
fn each_setting(command: Command, change: &dyn Fn(Arg) -> Arg) -> Command {
    let lists_all = command.get_name() == "serve";
    let command = command.mut_args(|arg| {
        if arg.get_help_heading() != Some(HEADING) {
            return arg;
        }
        let key = arg.get_id().to_string();
        let listed = lists_all || key == "config" || COMMON.contains(&&*key);
        let arg = change(arg.long(flag(&key)).num_args(1).hide(!listed).hide_env_values(true));
        match std::env::var_os(variable(&key)) {
            Some(text) if text.is_empty() => arg,
            _ => arg.env(variable(&key)),
        }
    });
    command.mut_subcommands(|command| each_setting(command, change))
}

fn innermost(mut matches: &ArgMatches) -> &ArgMatches {
    while let Some((_, inner)) = matches.subcommand() {
        matches = inner;
    }
    matches
}

/// The sentence for a value that breaks its rule, which names its source and does not repeat it. Any other error as it
/// is.
fn broken_rule(error: clap::Error, source: impl Fn(&str) -> String) -> anyhow::Error {
    let rule = match (error.kind(), error.get(ContextKind::ValidValue)) {
        (ErrorKind::ValueValidation, _) => std::error::Error::source(&error).map(ToString::to_string),
        (ErrorKind::InvalidValue, Some(ContextValue::Strings(values))) if !values.is_empty() => {
            Some(format!("must be {}", values.join(" or ")))
        }
        (ErrorKind::InvalidValue, _) => Some("must not be empty".to_owned()),
        _ => None,
    };
    match (rule, error.get(ContextKind::InvalidArg)) {
        (Some(rule), Some(ContextValue::String(usage))) => {
            // As in `--expires <DURATION>`.
            let given = usage.split_once(' ').map_or(&**usage, |(flag, _)| flag);
            match SETTINGS.iter().find(|setting| given == format!("--{}", flag(&setting.key))) {
                Some(setting) => anyhow::anyhow!("{} {rule}", source(&setting.key)),
                None => anyhow::anyhow!("{given} {rule}"),
            }
        }
        _ => error.into(),
    }
}

/// Reads the issuers in a config file again.
///
/// # Errors
/// As [`parse`] for the file, whose other settings are checked for unknown keys only.
pub fn read_identity(path: &Path) -> anyhow::Result<IdentitySettings> {
    read_file(path).map(|file| file.identity)
}

/// A config file.
#[derive(Default)]
struct File {
    /// By dotted keys.
    settings: BTreeMap<String, String>,
    identity: IdentitySettings,
}

/// Reads a TOML file.
fn read_file(path: &Path) -> anyhow::Result<File> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("the config file {} cannot be read", path.display()))?;
    // The library's error quotes the line, which may contain a password.
    let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        anyhow::anyhow!("the config file {} is not well-formed TOML at line {line}", path.display())
    })?;
    let identity = table.remove("issuer").map(|value| IdentitySettings::parse(&value)).transpose();
    let identity = identity.map_err(|error| {
        let what = format!("the config file {} has an issuer that cannot be used: {error}", path.display());
        Advised::new(what, "docs/identity.md documents issuers and rules")
    })?;
    let mut flat = BTreeMap::new();
    flatten("", &table, &mut flat)?;
    for key in flat.keys() {
        if !SETTINGS.iter().any(|setting| setting.key == *key) {
            let what = format!("the config file {} has an unknown key '{key}'", path.display());
            bail!(Advised::new(what, "docs/settings.md lists the keys"));
        }
    }
    Ok(File { settings: flat, identity: identity.unwrap_or_default() })
}

fn flatten(prefix: &str, table: &toml::Table, flat: &mut BTreeMap<String, String>) -> anyhow::Result<()> {
    for (key, value) in table {
        // TOML keys may have underscores or hyphens. Both are the same setting.
        let key = format!("{prefix}{}", key.replace('_', "-"));
        let text = match value {
            toml::Value::Table(inner) => {
                flatten(&format!("{key}."), inner, flat)?;
                continue;
            }
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            _ => bail!("'{key}' in the config file must be a string or a whole number"),
        };
        if flat.insert(key.clone(), text).is_some() {
            bail!("'{key}' is in the config file twice, with an underscore and with a hyphen");
        }
    }
    Ok(())
}

/// The outcome of a parser: the value, or the rule that the text breaks.
type Parsed<T> = Result<T, &'static str>;

/// Parses a duration of at most 366 days.
///
/// # Errors
/// The rule.
pub fn duration(text: &str) -> Parsed<Duration> {
    let parsed = humantime::parse_duration(text).ok().filter(|duration| *duration <= LONGEST);
    parsed.ok_or("must be a duration such as 30s, 10m or 24h, at most 366 days")
}

/// Parses the lifetime of a key: above zero, without a maximum. Less than a second is a second.
///
/// # Errors
/// The rule.
pub fn lifetime(text: &str) -> Parsed<Duration> {
    let parsed = humantime::parse_duration(text).ok().filter(|duration| !duration.is_zero());
    parsed
        .map(|duration| duration.max(Duration::from_secs(1)))
        .ok_or("must be a duration such as 12h or 90d, more than 0")
}

/// Parses a duration above zero.
///
/// # Errors
/// The rule.
pub fn deadline(text: &str) -> Parsed<Duration> {
    let parsed = duration(text).ok().filter(|duration| !duration.is_zero());
    parsed.ok_or("must be a duration such as 30s or 10m, more than 0 and at most 366 days")
}

fn number(text: &str) -> Parsed<u32> {
    text.parse().map_err(|_| "must be a whole number from 0 to 4294967295")
}

/// Parses a number above zero.
fn streams(text: &str) -> Parsed<u32> {
    let parsed = text.parse().ok().filter(|number| (1..=1_000_000).contains(number));
    parsed.ok_or("must be a whole number from 1 to 1000000")
}

fn positive(text: &str) -> Parsed<usize> {
    streams(text).map(|number| number as usize)
}

fn threads(text: &str) -> Parsed<usize> {
    let parsed = text.parse().ok().filter(|threads| *threads <= 1024);
    parsed.ok_or("must be a whole number from 0 to 1024")
}

fn bytes(text: &str) -> Parsed<u64> {
    let parsed = text.parse::<ByteSize>().map(|size| size.as_u64());
    parsed.map_err(|_| "must be a size such as 16KiB or 64MiB")
}

fn buffer(text: &str) -> Parsed<usize> {
    let parsed = bytes(text).ok().and_then(|size| size.try_into().ok());
    let parsed = parsed.filter(|size| (64 * 1024..=1 << 30).contains(size));
    parsed.ok_or("must be a size from 64KiB to 1GiB, such as 1MiB")
}

fn share(text: &str) -> Parsed<usize> {
    let parsed = text.parse().ok().filter(|number| (0..=1_000_000).contains(number));
    parsed.ok_or("must be a whole number from 0 to 1000000")
}

fn unsent(text: &str) -> Parsed<u32> {
    let parsed = bytes(text).ok().filter(|size| (1 << 20..=1 << 30).contains(size));
    parsed.and_then(|size| size.try_into().ok()).ok_or("must be a size from 1MiB to 1GiB, such as 16MiB")
}

fn list_steps(text: &str) -> Parsed<usize> {
    let parsed = text.parse().ok().filter(|number| (1_000..=1_000_000_000).contains(number));
    parsed.ok_or("must be a whole number from 1000 to 1000000000")
}

fn list_size(text: &str) -> Parsed<u32> {
    let parsed = bytes(text).ok().filter(|size| (64 * 1024..=16 << 20).contains(size));
    parsed.and_then(|size| size.try_into().ok()).ok_or("must be a size from 64KiB to 16MiB, such as 1MiB")
}

fn audit_max_size(text: &str) -> Parsed<u64> {
    let parsed = bytes(text).ok().filter(|size| *size >= 64 * 1024);
    parsed.ok_or("must be a size of at least 64KiB, such as 64MiB")
}

fn header_size(text: &str) -> Parsed<usize> {
    let parsed = bytes(text).ok().and_then(|size| size.try_into().ok());
    let parsed = parsed.filter(|size| (1024..=1024 * 1024).contains(size));
    parsed.ok_or("must be a size from 1KiB to 1MiB, such as 16KiB")
}

fn log_level(text: &str) -> Parsed<LevelFilter> {
    let parsed = text.parse::<tracing::Level>().map(Into::into);
    parsed.map_err(|_| "must be error, warn, info, debug or trace")
}

fn address(text: &str) -> Parsed<ListenAddress> {
    text.parse()
}

/// Parses an address or a network, such as `10.0.0.0/8` or `::1`.
///
/// # Errors
/// The rule.
pub fn network(text: &str) -> Parsed<IpNet> {
    let text = text.trim();
    let parsed = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    parsed.map_err(|_| "must be a comma-separated list of addresses and networks such as 10.0.0.0/8")
}

/// Parses an origin as browsers send it: `https://app.example.com`, a port if it is not the scheme's own, nothing after
/// it.
fn origin(text: &str) -> Parsed<HeaderValue> {
    let text = text.trim();
    let parsed = text.parse::<http::Uri>().ok().filter(|uri| {
        let default_port = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return false,
        };
        let whole = uri
            .authority()
            .map(|authority| format!("{}://{authority}", uri.scheme_str().unwrap_or_default()));
        whole.as_deref() == Some(text)
            && text == text.to_ascii_lowercase()
            // A browser sends no pattern, so one would match nothing.
            && !text.contains(['@', '*'])
            && uri.port_u16() != Some(default_port)
    });
    parsed.and_then(|_| HeaderValue::from_str(text).ok()).ok_or(
        "must be origins such as https://app.example.com, in lower case, without a path, separated by commas",
    )
}

fn endpoint(text: &str) -> Parsed<String> {
    let uri = text.parse::<http::Uri>().ok();
    let fits = |uri: &http::Uri| {
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        is_http && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    };
    uri.filter(fits)
        .map(|_| text.to_owned())
        .ok_or("must be an address such as https://log.example.com/checkpoints")
}

fn collector(text: &str) -> Parsed<String> {
    let uri = text.parse::<http::Uri>().ok();
    let fits =
        |uri: &http::Uri| uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty());
    uri.filter(fits).map(|_| text.to_owned()).ok_or("must be an address such as http://127.0.0.1:4318")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Parser)]
    #[command(name = "serve")]
    struct Serve {
        #[command(flatten)]
        settings: Settings,
    }

    impl AsMut<Settings> for Serve {
        fn as_mut(&mut self) -> &mut Settings {
            &mut self.settings
        }
    }

    fn read_from(args: &[&str]) -> anyhow::Result<Settings> {
        let line: Vec<OsString> = args.iter().map(OsString::from).collect();
        parse::<Serve>(&line).map(|serve| serve.settings)
    }

    #[test]
    fn a_provider_is_spelled_as_in_the_kek_file() {
        for provider in KekProvider::value_variants() {
            let spelled = provider.to_possible_value().expect("all are listed");
            assert_eq!(spelled.get_name(), provider.as_str());
        }
    }

    #[test]
    fn every_default_parses() {
        let settings = read_from(&["serve"]).expect("defaults");
        assert_eq!(settings.listen, ["127.0.0.1:8080".parse().expect("an address")]);
        assert_eq!(settings.grace, Duration::from_secs(86400));
        assert_eq!(settings.kek_file(), PathBuf::from("./data/kek.json"));
    }

    #[test]
    fn a_file_that_is_no_toml_is_rejected_by_its_line_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "grace = \"1h\"\n[database]\nurl = \"postgres://u:canary@h/d\n")
            .expect("written");
        let error =
            read_from(&["serve", "--config", path.to_str().expect("UTF-8")]).expect_err("no end quote");
        assert!(error.to_string().ends_with("is not well-formed TOML at line 3"), "{error}");
        assert!(!format!("{error:#} {error:?}").contains("canary"));
    }

    #[test]
    fn a_flag_comes_before_the_file_and_the_file_before_the_default() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "grace = \"1h\"\n[audit]\nsync = \"fsync\"\nmax_size = \"1MiB\"\n")
            .expect("written");
        let path = path.to_str().expect("UTF-8");
        let settings = read_from(&["serve", "--config", path, "--grace", "2h"]).expect("valid");
        assert_eq!(settings.grace, Duration::from_secs(7200));
        assert_eq!(settings.audit_sync, AuditSync::Fsync);
        assert_eq!(settings.audit_max_bytes, 1024 * 1024);
    }

    #[test]
    fn a_wrong_value_is_refused_by_its_name() {
        let error = read_from(&["serve", "--audit-sync", "never"]).expect_err("no such mode");
        assert_eq!(error.to_string(), "--audit-sync must be second or fsync");
        assert!(read_from(&["serve", "--tls-cert", "x"]).is_err());
        assert!(read_from(&["serve", "--limit-requests", "0"]).is_err());
        assert!(read_from(&["serve", "--cors-origins", "*"]).is_err());
        let two = read_from(&["serve", "--cors-origins", "https://a.example, http://localhost:5173"]);
        assert_eq!(two.expect("two origins").cors_origins, ["https://a.example", "http://localhost:5173"]);
        for (flag, value, rule) in [
            ("--limit-header-size", "0", "a size from 1KiB to 1MiB, such as 16KiB"),
            ("--limit-header-size", "1000", "a size from 1KiB to 1MiB, such as 16KiB"),
            ("--limit-header-size", "2MiB", "a size from 1KiB to 1MiB, such as 16KiB"),
            ("--limit-header-time", "0s", "a duration such as 30s or 10m, more than 0 and at most 366 days"),
            ("--limit-body-time", "0s", "a duration such as 30s or 10m, more than 0 and at most 366 days"),
            ("--limit-key-rate", "5000000000", "a whole number from 0 to 4294967295"),
            (
                "--audit-checkpoint-url",
                "log.example.com",
                "an address such as https://log.example.com/checkpoints",
            ),
            (
                "--audit-checkpoint-url",
                "https://a:b@log",
                "an address such as https://log.example.com/checkpoints",
            ),
            ("--otlp-endpoint", "collector:4318", "an address such as http://127.0.0.1:4318"),
            ("--otlp-endpoint", "https://collector", "an address such as http://127.0.0.1:4318"),
        ] {
            let error = read_from(&["serve", flag, value]).expect_err(value);
            assert_eq!(error.to_string(), format!("{flag} must be {rule}"));
        }
        let error = read_from(&["serve", "--tls-key", "x"]).expect_err("half a pair");
        assert_eq!(error.to_string(), "--tls-key needs 'tls.cert' beside it");
        let both = "give both or neither: --tls-cert or AGENTROUTER_SECRETS_TLS_CERT";
        assert_eq!(crate::hint::of(&*error), [both]);
        assert_eq!(
            read_from(&["serve", "--shutdown-time", "0s"]).expect("none").shutdown_time,
            Duration::ZERO
        );
    }

    #[test]
    fn a_database_url_is_not_shown() {
        let settings = read_from(&["serve", "--database-url", "postgres://u:canary@h/d"]).expect("valid");
        assert!(settings.database_url_is_flag && settings.database_url.is_some());
        assert!(!format!("{settings:?}").contains("canary"));
    }

    #[test]
    fn an_unknown_key_in_the_file_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "[audit]\noff = \"yes\"\n").expect("written");
        let error = read_from(&["serve", "--config", path.to_str().expect("UTF-8")]).expect_err("unknown");
        assert!(error.to_string().contains("'audit.off'"), "{error}");
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for wrong in ["10.0.0.0/33", "::/129", "10.0.0", "host", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(network(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_origin_is_written_as_browsers_send_it() {
        for good in
            ["https://app.example.com", "http://localhost:5173", "https://[::1]:8443", "http://10.0.0.1"]
        {
            assert!(origin(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "*",
            "null",
            "app.example.com",
            "https://app.example.com/",
            "https://app.example.com/x",
            "https://App.example.com",
            "https://app.example.com:443",
            "http://app.example.com:80",
            "https://user@app.example.com",
            "https://*.example.com",
            "https://*.example.com/",
            "https://app.*",
            "ftp://app.example.com",
            "https://app.example.com?x",
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}

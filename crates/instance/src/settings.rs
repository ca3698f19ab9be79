//! Every setting in one table, and the layers that it is read from: flag, environment, file, default.
//!
//! A setting `audit.sync` is the flag `--audit-sync`, the variable `AGENTROUTER_SECRETS_AUDIT_SYNC` and the key `sync`
//! in the table `[audit]` of the TOML file. `serve --help` and `docs/settings.md` are made from the same table.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use http::HeaderValue;
use ipnet::IpNet;

/// One setting, as people see it.
pub struct Setting {
    /// Its key in the file, such as `audit.sync`.
    pub key: &'static str,
    /// The kind of its value, for help texts.
    pub value_name: &'static str,
    /// What holds if nobody sets it; empty means unset.
    pub default: &'static str,
    /// What it is, with its unit.
    pub help: &'static str,
    /// Whether every subcommand takes it, or `serve` alone.
    pub common: bool,
}

const fn common(
    key: &'static str,
    value_name: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { key, value_name, default, help, common: true }
}

const fn serve(
    key: &'static str,
    value_name: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { key, value_name, default, help, common: false }
}

/// Every setting.
pub const SETTINGS: &[Setting] = &[
    common(
        "data-dir",
        "DIR",
        "./data",
        "Where the embedded database, the KEK file and the audit log are kept",
    ),
    common(
        "database.url",
        "URL",
        "",
        "PostgreSQL in place of the embedded database, such as postgres://user@host/database; see docs/postgres.md",
    ),
    common(
        "database.password-file",
        "FILE",
        "",
        "File with the password for database.url; without it the URL's, or that of the variable PGPASSWORD",
    ),
    serve(
        "database.start-time",
        "DURATION",
        "30s",
        "How long to wait at the start for a PostgreSQL that cannot be reached; 0s means not at all",
    ),
    common("kek-file", "FILE", "", "The KEK file, if it is not DATA_DIR/kek.json"),
    common("log.level", "LEVEL", "info", "Least severity logged: error, warn, info, debug or trace"),
    common("log.format", "FORMAT", "auto", "json, pretty, or auto: pretty on a terminal, else json"),
    serve("listen", "ADDRESS", "127.0.0.1:8080", "Address and port to listen on; port 0 takes a free one"),
    serve(
        "tls.cert",
        "FILE",
        "",
        "PEM file with the certificate chain; with tls.key, turns TLS on; read again when it changes",
    ),
    serve("tls.key", "FILE", "", "PEM file with the private key of tls.cert"),
    serve(
        "cors.origins",
        "ORIGINS",
        "",
        "Origins whose pages may call the API from a browser, separated by commas, such as https://app.example.com; unset means none but the server's own",
    ),
    serve(
        "grace",
        "DURATION",
        "24h",
        "How long a rotated version stays readable when the rotation does not say",
    ),
    serve("cache.size", "BYTES", "64MiB", "Most memory for sealed rows kept in memory"),
    serve(
        "audit.max-size",
        "BYTES",
        "64MiB",
        "Size at which the audit log goes on in a new file, 64KiB or more",
    ),
    serve(
        "audit.sync",
        "MODE",
        "second",
        "When an audit record counts as written: second (handed to the kernel, on disk within a second) or fsync (on disk)",
    ),
    serve(
        "limit.connections",
        "NUMBER",
        "16384",
        "Most connections at once; further ones wait to be accepted",
    ),
    serve("limit.requests", "NUMBER", "4096", "Most requests in progress at once; further ones get 503"),
    serve("limit.streams", "NUMBER", "256", "Most HTTP/2 streams at once on one connection"),
    serve("limit.header-size", "BYTES", "16KiB", "Largest request head, 1KiB to 1MiB; further ones get 431"),
    serve(
        "limit.header-time",
        "DURATION",
        "10s",
        "Longest time until a request's head (and TLS handshake) is complete; also how long an idle HTTP/1.1 connection is kept",
    ),
    serve(
        "limit.body-time",
        "DURATION",
        "10s",
        "Longest time until a request's body is complete, and that an answer may wait to be read",
    ),
    serve("limit.key-rate", "NUMBER", "0", "Requests per second that one API key may make; 0 means no limit"),
    serve(
        "limit.key-burst",
        "NUMBER",
        "0",
        "Requests that one API key may make at once above its rate; 0 means as many as its rate",
    ),
    serve(
        "limit.failed-auth-rate",
        "NUMBER",
        "10",
        "Failed authentications per second answered with 401 for one address, ten times as many at once; further ones get 429; 0 means no limit",
    ),
    serve(
        "drain-time",
        "DURATION",
        "0s",
        "How long requests are still taken after the signal to stop while /readyz says so, for load balancers to look elsewhere; a second signal ends it",
    ),
    serve("shutdown-time", "DURATION", "20s", "Longest time that requests in progress are given at shutdown"),
    serve(
        "trusted-proxies",
        "LIST",
        "",
        "Comma-separated addresses and networks, such as 10.0.0.0/8, of load balancers whose X-Forwarded-For is believed; unset means none",
    ),
    serve("threads", "NUMBER", "0", "Worker threads; 0 means one per processor"),
    serve(
        "otlp.endpoint",
        "URL",
        "",
        "Where traces are sent by OTLP over HTTP, such as http://127.0.0.1:4318; unset means nowhere",
    ),
];

/// A text that may hold a password: not shown.
#[derive(Clone)]
pub struct Hidden(String);

impl Hidden {
    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

/// When an audit record counts as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditSync {
    /// Handed to the kernel; on disk within a second.
    Second,
    /// On disk.
    Fsync,
}

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `Pretty` on a terminal, else `Json`.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

/// Limits on what a client may take.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field is the setting `limit.*` of its name")]
pub struct Limits {
    pub connections: usize,
    pub requests: usize,
    pub streams: u32,
    pub header_bytes: usize,
    pub header_time: Duration,
    pub body_time: Duration,
    pub key_rate: u32,
    pub key_burst: u32,
    pub failed_auth_rate: u32,
}

/// The settings, read and parsed.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field is the setting of its name in `SETTINGS`")]
pub struct Settings {
    pub data_dir: PathBuf,
    pub database_url: Option<Hidden>,
    pub database_password_file: Option<PathBuf>,
    pub database_start_time: Duration,
    /// Whether the URL came as a flag, where other users of the machine see it.
    pub database_url_is_flag: bool,
    pub kek_file: PathBuf,
    pub log_level: tracing::level_filters::LevelFilter,
    pub log_format: LogFormat,
    pub listen: SocketAddr,
    pub tls: Option<(PathBuf, PathBuf)>,
    pub cors_origins: Vec<HeaderValue>,
    pub grace: Duration,
    pub cache_bytes: u64,
    pub audit_max_bytes: u64,
    pub audit_sync: AuditSync,
    pub limits: Limits,
    pub drain_time: Duration,
    pub shutdown_time: Duration,
    pub trusted_proxies: Vec<IpNet>,
    pub threads: usize,
    pub otlp_endpoint: Option<String>,
}

impl Setting {
    fn flag(&self) -> String {
        self.key.replace('.', "-")
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("AGENTROUTER_SECRETS_{}", self.key.replace(['.', '-'], "_").to_uppercase())
    }

    fn arg(&self) -> Arg {
        let default = if self.default.is_empty() { "unset" } else { self.default };
        Arg::new(self.key)
            .long(self.flag())
            .value_name(self.value_name)
            .env(self.variable())
            .hide_env_values(true)
            .help(format!("{} [default: {default}]", self.help))
            .help_heading("Settings")
    }
}

/// Adds the settings' flags to a command: all of them to `serve`, the common ones to every other.
pub fn with_flags(command: Command, all: bool) -> Command {
    command.args(flags(all))
}

/// The settings' flags: all of them, or the common ones.
pub fn flags(all: bool) -> Vec<Arg> {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .env("AGENTROUTER_SECRETS_CONFIG")
        .help("TOML file with settings; flags and environment come before it [default: none]")
        .help_heading("Settings");
    let settings = SETTINGS.iter().filter(|setting| all || setting.common).map(Setting::arg);
    std::iter::once(config).chain(settings).collect()
}

/// The longest duration of any setting.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Where a value came from, for messages, and its text.
type Raw = (String, String);

/// Reads the settings from flags, environment, file and defaults, in this order.
///
/// # Errors
/// When the file cannot be read or has an unknown key, or a value is not what it should be; the message names the
/// setting and where it was set.
pub fn read(matches: &ArgMatches) -> anyhow::Result<Settings> {
    let file = match matches.get_one::<String>("config") {
        Some(path) => read_file(Path::new(path))?,
        None => BTreeMap::new(),
    };
    let mut raw: BTreeMap<&str, Raw> = BTreeMap::new();
    for setting in SETTINGS {
        raw.insert(setting.key, layer(setting, matches, &file));
    }
    parse(&Values(raw))
}

fn layer(setting: &Setting, matches: &ArgMatches, file: &BTreeMap<String, String>) -> Raw {
    // A subcommand other than `serve` does not know the flags of `serve`.
    let given = matches.try_get_one::<String>(setting.key).ok().flatten();
    match (given, file.get(setting.key)) {
        (Some(text), _) if matches.value_source(setting.key) == Some(ValueSource::EnvVariable) => {
            (setting.variable(), text.clone())
        }
        (Some(text), _) => (format!("--{}", setting.flag()), text.clone()),
        (None, Some(text)) => (format!("'{}' in the config file", setting.key), text.clone()),
        (None, None) => (format!("--{}", setting.flag()), setting.default.to_owned()),
    }
}

/// Reads a TOML file into dotted keys.
fn read_file(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("the config file {} cannot be read", path.display()))?;
    let table: toml::Table = text
        .parse()
        .with_context(|| format!("the config file {} is not well-formed TOML", path.display()))?;
    let mut flat = BTreeMap::new();
    flatten("", &table, &mut flat)?;
    for key in flat.keys() {
        if !SETTINGS.iter().any(|setting| setting.key == key) {
            bail!("the config file {} has an unknown key '{key}'; see docs/settings.md", path.display());
        }
    }
    Ok(flat)
}

fn flatten(prefix: &str, table: &toml::Table, flat: &mut BTreeMap<String, String>) -> anyhow::Result<()> {
    for (key, value) in table {
        // TOML keys are written with underscores as often as with hyphens; both are the same setting.
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

struct Values<'a>(BTreeMap<&'a str, Raw>);

impl Values<'_> {
    fn text(&self, key: &str) -> (&str, &str) {
        self.0.get(key).map_or(("", ""), |(source, text)| (source, text))
    }

    fn get<T>(&self, key: &str, rule: &str, parse: impl Fn(&str) -> Option<T>) -> anyhow::Result<T> {
        let (source, text) = self.text(key);
        parse(text).with_context(|| format!("{source} must be {rule}"))
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        let (_, text) = self.text(key);
        (!text.is_empty()).then(|| PathBuf::from(text))
    }

    fn number(&self, key: &str) -> anyhow::Result<u32> {
        self.get(key, "a whole number from 0 to 4294967295", |text| text.parse().ok())
    }

    /// A number of which 0 would be no server at all.
    fn positive(&self, key: &str) -> anyhow::Result<usize> {
        self.get(key, "a whole number from 1 to 1000000", |text| {
            text.parse().ok().filter(|number| (1..=1_000_000).contains(number))
        })
    }

    fn duration(&self, key: &str) -> anyhow::Result<Duration> {
        self.get(key, "a duration such as 30s, 10m or 24h, at most 366 days", |text| {
            humantime::parse_duration(text).ok().filter(|duration| *duration <= LONGEST)
        })
    }

    /// A time in which something has to happen, which nothing does in none.
    fn some_time(&self, key: &str) -> anyhow::Result<Duration> {
        self.get(key, "a duration such as 30s or 10m, more than 0 and at most 366 days", |text| {
            let duration = humantime::parse_duration(text).ok()?;
            (!duration.is_zero() && duration <= LONGEST).then_some(duration)
        })
    }

    fn bytes(&self, key: &str) -> anyhow::Result<u64> {
        self.get(key, "a size such as 16KiB or 64MiB", |text| {
            text.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64())
        })
    }
}

fn parse(values: &Values<'_>) -> anyhow::Result<Settings> {
    let data_dir = values.path("data-dir").context("--data-dir must not be empty")?;
    let tls = match (values.path("tls.cert"), values.path("tls.key")) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => bail!("{}", half_of_a_pair(values, "tls.cert", "tls.key")),
        (None, Some(_)) => bail!("{}", half_of_a_pair(values, "tls.key", "tls.cert")),
    };
    let (source, url) = values.text("database.url");
    Ok(Settings {
        database_url: (!url.is_empty()).then(|| Hidden(url.to_owned())),
        database_url_is_flag: source.starts_with("--"),
        database_password_file: values.path("database.password-file"),
        database_start_time: values.duration("database.start-time")?,
        kek_file: values.path("kek-file").unwrap_or_else(|| data_dir.join("kek.json")),
        data_dir,
        log_level: values.get("log.level", "error, warn, info, debug or trace", |text| {
            text.parse::<tracing::Level>().ok().map(Into::into)
        })?,
        log_format: values.get("log.format", "auto, json or pretty", |text| match text {
            "auto" => Some(LogFormat::Auto),
            "json" => Some(LogFormat::Json),
            "pretty" => Some(LogFormat::Pretty),
            _ => None,
        })?,
        listen: values
            .get("listen", "an address and port such as 127.0.0.1:8080", |text| text.parse().ok())?,
        tls,
        cors_origins: values.get(
            "cors.origins",
            "origins such as https://app.example.com, in lower case, without a path, separated by commas",
            |text| match text {
                "" => Some(Vec::new()),
                text => text.split(',').map(|origin| parse_origin(origin.trim())).collect(),
            },
        )?,
        grace: values.duration("grace")?,
        cache_bytes: values.bytes("cache.size")?,
        audit_max_bytes: values.get("audit.max-size", "a size of at least 64KiB, such as 64MiB", |text| {
            let size = text.parse::<bytesize::ByteSize>().ok()?.as_u64();
            (size >= 64 * 1024).then_some(size)
        })?,
        audit_sync: values.get("audit.sync", "second or fsync", |text| match text {
            "second" => Some(AuditSync::Second),
            "fsync" => Some(AuditSync::Fsync),
            _ => None,
        })?,
        limits: parse_limits(values)?,
        drain_time: values.duration("drain-time")?,
        shutdown_time: values.duration("shutdown-time")?,
        trusted_proxies: values.get(
            "trusted-proxies",
            "a comma-separated list of addresses and networks such as 10.0.0.0/8",
            networks,
        )?,
        threads: values.get("threads", "a whole number from 0 to 1024", |text| {
            text.parse().ok().filter(|threads| *threads <= 1024)
        })?,
        otlp_endpoint: values.get("otlp.endpoint", "an address such as http://127.0.0.1:4318", |text| {
            match text.parse::<http::Uri>() {
                _ if text.is_empty() => Some(None),
                Ok(uri)
                    if uri.scheme_str() == Some("http")
                        && uri.host().is_some_and(|host| !host.is_empty()) =>
                {
                    Some(Some(text.to_owned()))
                }
                _ => None,
            }
        })?,
    })
}

/// That of two settings that need each other one is there, named with its source.
fn half_of_a_pair(values: &Values<'_>, given: &str, missing: &str) -> String {
    let (source, _) = values.text(given);
    let other = SETTINGS.iter().find(|setting| setting.key == missing);
    let other = other.map_or_else(String::new, |other| format!("--{} or {}", other.flag(), other.variable()));
    format!("{source} needs '{missing}' beside it; give both or neither: {other}")
}

fn parse_limits(values: &Values<'_>) -> anyhow::Result<Limits> {
    Ok(Limits {
        connections: values.positive("limit.connections")?,
        requests: values.positive("limit.requests")?,
        streams: u32::try_from(values.positive("limit.streams")?).unwrap_or(u32::MAX),
        header_bytes: values.get("limit.header-size", "a size from 1KiB to 1MiB, such as 16KiB", |text| {
            let size = usize::try_from(text.parse::<bytesize::ByteSize>().ok()?.as_u64()).ok()?;
            (1024..=1024 * 1024).contains(&size).then_some(size)
        })?,
        header_time: values.some_time("limit.header-time")?,
        body_time: values.some_time("limit.body-time")?,
        key_rate: values.number("limit.key-rate")?,
        key_burst: values.number("limit.key-burst")?,
        failed_auth_rate: values.number("limit.failed-auth-rate")?,
    })
}

/// A comma-separated list of addresses and networks, such as `10.0.0.0/8, ::1`.
pub fn networks(text: &str) -> Option<Vec<IpNet>> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    items.map(|item| item.parse().or_else(|_| item.parse::<IpAddr>().map(IpNet::from)).ok()).collect()
}

/// An origin as browsers send it: `https://app.example.com`, a port if it is not the scheme's own, nothing after it.
fn parse_origin(text: &str) -> Option<HeaderValue> {
    let uri: http::Uri = text.parse().ok()?;
    let whole = format!("{}://{}", uri.scheme_str()?, uri.authority()?);
    let plain = whole == text && text == text.to_ascii_lowercase() && !text.contains('@');
    let web = matches!((uri.scheme_str(), uri.port_u16()), (Some("http"), port) if port != Some(80))
        || matches!((uri.scheme_str(), uri.port_u16()), (Some("https"), port) if port != Some(443));
    (plain && web).then(|| HeaderValue::from_str(text).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_from(args: &[&str]) -> anyhow::Result<Settings> {
        let command = with_flags(Command::new("serve"), true);
        read(&command.try_get_matches_from(args).expect("the flags are known"))
    }

    #[test]
    fn every_default_parses() {
        let settings = read_from(&["serve"]).expect("defaults");
        assert_eq!(settings.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(settings.grace, Duration::from_secs(86400));
        assert_eq!(settings.kek_file, PathBuf::from("./data/kek.json"));
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
            ("--otlp-endpoint", "collector:4318", "an address such as http://127.0.0.1:4318"),
            ("--otlp-endpoint", "https://collector", "an address such as http://127.0.0.1:4318"),
        ] {
            let error = read_from(&["serve", flag, value]).expect_err(value);
            assert_eq!(error.to_string(), format!("{flag} must be {rule}"));
        }
        let error = read_from(&["serve", "--tls-key", "x"]).expect_err("half a pair");
        let rest =
            "needs 'tls.cert' beside it; give both or neither: --tls-cert or AGENTROUTER_SECRETS_TLS_CERT";
        assert_eq!(error.to_string(), format!("--tls-key {rest}"));
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
            assert_eq!(networks(wrong), None, "{wrong}");
        }
        assert_eq!(networks("").as_deref(), Some(&[][..]));
    }

    #[test]
    fn an_origin_is_written_as_browsers_send_it() {
        for good in
            ["https://app.example.com", "http://localhost:5173", "https://[::1]:8443", "http://10.0.0.1"]
        {
            assert!(parse_origin(good).is_some(), "{good}");
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
            "https://*.example.com/",
            "ftp://app.example.com",
            "https://app.example.com?x",
        ] {
            assert!(parse_origin(bad).is_none(), "{bad}");
        }
    }
}

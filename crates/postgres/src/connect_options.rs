//! Connect options: a URL as libpq writes it, without the keys that cannot be supported.
//!
//! ```text
//! postgres://USER[:PASSWORD]@HOST[:PORT][,HOST[:PORT]…]/DATABASE[?KEY=VALUE&…]
//! ```
//!
//! | key | what it is |
//! |---|---|
//! | `sslmode` | `verify-full` (`require` means the same) or `disable`. Default: `disable` for a Unix socket and for loopback hosts, else `verify-full` |
//! | `sslrootcert` | a PEM file of certificate authorities to trust in place of the system's; `system` means the system's |
//! | `host`, `port`, `user`, `password`, `dbname` | as above; a `host` that begins with `/` is the directory of a Unix socket |
//! | `application_name` | how the server lists the connections; default `agentrouter-secrets` |
//! | `channel_binding` | `disable` or `prefer`; `require` if every host is reached by TLS, whose certificate is verified |
//! | `connect_timeout` | a number of seconds; the limits stay as they are |
//! | `target_session_attrs` | `read-write` or `primary`, as every connection is to a host that takes writes |
//!
//! White space around the URL does not count, nor do line ends behind a password that is given apart from it. Any other
//! key is an error, which names the key if it is one of libpq's. Of several hosts the first that takes writes is used;
//! that is how a failover is followed. The URL holds a password: nothing here shows it or any part of it.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::file_source::FileSource;
use super::tls::{Connector, Tls};
use agentrouter_store::StoreError;

/// Longest time to set up a connection to a host. Of it, [`CONNECT`] is the limit for the TCP connection.
pub(super) const HOST: Duration = Duration::from_secs(3);
const CONNECT: Duration = Duration::from_secs(2);
/// TCP keepalive: the idle time before the first probe.
const IDLE: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_secs(3);
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

const SHAPE: &str =
    "the URL must be postgres://USER@HOST/DATABASE, with sslmode, sslrootcert and the like after '?'";
const KEY: &str = "the URL has a key after '?' that is not supported";
/// What to do with such a key.
const REMOVE: &str = "remove it; docs/postgres.md lists the keys";
const BINDING: &str =
    "channel_binding must be disable, prefer, or require (with TLS, whose certificate is verified)";
const TIMEOUT: &str = "connect_timeout must be a number of seconds";
const SESSION: &str =
    "target_session_attrs must be read-write or primary: the server writes on every connection";
const MODE: &str = "sslmode must be verify-full, require (which is taken for verify-full) or disable";

/// The hosts, user and TLS settings of a database.
#[derive(Clone)]
pub struct ConnectOptions {
    /// One for each host.
    pub(super) hosts: Vec<Config>,
    /// None if no host uses TLS.
    tls: Option<Arc<Tls>>,
    /// None if the password is fixed.
    password: Option<FileSource>,
}

impl ConnectOptions {
    /// Parses a URL. `password` is used if the URL has none.
    ///
    /// # Errors
    /// [`StoreError::Open`] or [`StoreError::Misconfigured`], with a text that has nothing of the URL in it.
    pub fn parse(url: &str, password: Option<&str>) -> Result<Self, StoreError> {
        let wrong = |reason| StoreError::Open { reason, source: None };
        // A secret that was created with `echo` ends with a line break.
        let url = url.trim();
        let password = password.map(|password| password.trim_end_matches(['\r', '\n']));
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(wrong(SHAPE));
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut kept, mut mode, mut roots, mut bound) = (Vec::new(), None, None, false);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| wrong(SHAPE))?;
            match key {
                "sslmode" => mode = Some(secured(value).ok_or_else(|| wrong(MODE))?),
                "sslrootcert" if value == "system" => roots = None,
                "sslrootcert" => roots = Some(PathBuf::from(decoded(value).ok_or_else(|| wrong(SHAPE))?)),
                "host" | "port" | "user" | "password" | "dbname" | "application_name" => kept.push(pair),
                "channel_binding" => match value {
                    "disable" | "prefer" => {}
                    "require" => bound = true,
                    _ => return Err(wrong(BINDING)),
                },
                "connect_timeout" if value.parse::<u32>().is_ok() => {}
                "connect_timeout" => return Err(wrong(TIMEOUT)),
                "target_session_attrs" if matches!(value, "read-write" | "primary") => {}
                "target_session_attrs" => return Err(wrong(SESSION)),
                _ => return Err(StoreError::Misconfigured { reason: unsupported(key), hint: REMOVE }),
            }
        }
        let url = [base, "?", &kept.join("&")].concat();
        // The library's error may repeat a part of the URL.
        let config: Config = url.parse().map_err(|_| wrong(SHAPE))?;
        let hosts = one_by_one(&config, password, mode).ok_or_else(|| wrong(SHAPE))?;
        if bound && hosts.iter().any(|host| host.get_ssl_mode() == SslMode::Disable) {
            return Err(wrong(BINDING));
        }
        let tls = match hosts.iter().any(|host| host.get_ssl_mode() != SslMode::Disable) {
            true => Some(Arc::new(Tls::new(roots.as_deref())?)),
            false => None,
        };
        Ok(Self { hosts, tls, password: None })
    }

    /// Takes the password from a file for each connection, unless the URL has one.
    #[must_use]
    pub fn with_password_file(mut self, file: FileSource) -> Self {
        self.password = self.hosts.iter().all(|host| host.get_password().is_none()).then_some(file);
        self
    }

    /// Reads the files that connections need, so that a file that cannot be used is found before the database is tried.
    /// Waits for the writer of a pipe.
    pub(super) async fn load(&self) -> Result<(), StoreError> {
        if let Some(password) = &self.password {
            password.read().await?;
        }
        if let Some(tls) = &self.tls {
            tls.connector().await?;
        }
        Ok(())
    }

    /// The configuration of a host, with the present password.
    pub(super) async fn config(&self, host: usize) -> Result<Config, StoreError> {
        let mut config = self.hosts[host].clone();
        if let Some(password) = &self.password {
            config.password(without_line_end(&password.read().await?));
        }
        Ok(config)
    }

    /// TLS with the present certificate authorities. None if the host is reached without TLS.
    pub(super) async fn connector(&self, host: usize) -> Result<Option<Connector>, StoreError> {
        match &self.tls {
            Some(tls) if self.hosts[host].get_ssl_mode() != SslMode::Disable => {
                tls.connector().await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Whether the URL itself holds a password.
    pub fn has_password(url: &str) -> bool {
        url.parse::<Config>().is_ok_and(|config| config.get_password().is_some())
            || url.split_once('?').is_some_and(|(base, query)| {
                base.parse::<Config>().is_ok_and(|config| config.get_password().is_some())
                    || query.split('&').any(|pair| pair.starts_with("password="))
            })
    }
}

/// Shows hosts and database, and not the user.
impl fmt::Display for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, config) in self.hosts.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            match config.get_hosts().first() {
                Some(Host::Tcp(host)) => write!(f, "{host}:{}", config.get_ports().first().unwrap_or(&5432))?,
                Some(Host::Unix(path)) => write!(f, "{}", path.display())?,
                None => f.write_str("?")?,
            }
        }
        let tls = if self.tls.is_some() { "with TLS" } else { "without TLS" };
        write!(f, " {tls}")
    }
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One configuration for each host, so that each has a time limit of its own and the next host is tried after it.
fn one_by_one(config: &Config, password: Option<&str>, mode: Option<SslMode>) -> Option<Vec<Config>> {
    let (hosts, ports) = (config.get_hosts(), config.get_ports());
    if hosts.is_empty() || config.get_user().is_none_or(str::is_empty) {
        return None;
    }
    let one = |(i, host): (usize, &Host)| {
        let mut one = Config::new();
        let local = match host {
            Host::Tcp(name) => {
                one.host(name);
                name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
            Host::Unix(path) => {
                one.host_path(path);
                true
            }
        };
        one.port(ports.get(i).or(ports.last()).copied().unwrap_or(5432));
        one.user(config.get_user().unwrap_or_default());
        one.dbname(config.get_dbname().or(config.get_user()).unwrap_or_default());
        if let Some(password) = config.get_password().or(password.map(str::as_bytes)) {
            one.password(password);
        }
        one.application_name(config.get_application_name().unwrap_or("agentrouter-secrets"));
        one.ssl_mode(mode.unwrap_or(if local { SslMode::Disable } else { SslMode::Require }));
        one.target_session_attrs(TargetSessionAttrs::ReadWrite);
        one.connect_timeout(CONNECT).tcp_user_timeout(UNACKNOWLEDGED);
        one.keepalives_idle(IDLE).keepalives_interval(INTERVAL).keepalives_retries(3);
        one
    };
    Some(hosts.iter().enumerate().map(one).collect())
}

/// The error for a key that is not supported. It repeats keys of libpq alone: anything else may be part of a password
/// with a `?` in it.
fn unsupported(key: &str) -> &'static str {
    macro_rules! named {
        ($($name:literal)*) => {
            match key {
                $($name => concat!("the URL's key ", $name, " is not supported"),)*
                _ => KEY,
            }
        };
    }
    named!(
        "client_encoding" "fallback_application_name" "gssdelegation" "gssencmode" "gsslib" "hostaddr" "keepalives"
        "keepalives_count" "keepalives_idle" "keepalives_interval" "krbsrvname" "load_balance_hosts"
        "max_protocol_version" "min_protocol_version" "options" "passfile" "replication" "require_auth" "requirepeer"
        "requiressl" "service" "ssl_max_protocol_version" "ssl_min_protocol_version" "sslcert" "sslcertmode"
        "sslcompression" "sslcrl" "sslcrldir" "sslkey" "sslnegotiation" "sslpassword" "sslsni" "tcp_user_timeout"
    )
}

fn secured(mode: &str) -> Option<SslMode> {
    match mode {
        "disable" => Some(SslMode::Disable),
        "require" | "verify-full" => Some(SslMode::Require),
        _ => None,
    }
}

fn without_line_end(mut password: &[u8]) -> &[u8] {
    while let [rest @ .., b'\r' | b'\n'] = password {
        password = rest;
    }
    password
}

/// Decodes percent-encoding.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        bytes.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<ConnectOptions, String> {
        ConnectOptions::parse(url, None).map_err(|error| error.to_string())
    }

    #[test]
    fn a_remote_host_requires_tls_and_a_local_host_does_not() {
        let modes = |url: &str| {
            let target = parse(url).expect("a URL");
            target.hosts.iter().map(Config::get_ssl_mode).collect::<Vec<_>>()
        };
        assert_eq!(modes("postgres://u@db.example.com/d"), [SslMode::Require]);
        assert_eq!(modes("postgres://u@db.example.com/d?sslmode=disable"), [SslMode::Disable]);
        assert_eq!(modes("postgresql://u:p@127.0.0.1:5433/d"), [SslMode::Disable]);
        assert_eq!(modes("postgres://u@[::1]/d?sslmode=require"), [SslMode::Require]);
        assert_eq!(modes("postgres://u@/d?host=/run/postgresql"), [SslMode::Disable]);
        assert_eq!(
            modes("postgres://u@localhost:1,db.example.com:2/d"),
            [SslMode::Disable, SslMode::Require]
        );
    }

    #[test]
    fn an_unsupported_url_is_refused_and_the_error_does_not_contain_it() {
        for url in [
            "mysql://canary@h/d",
            "postgres://canary:canary@h:canary/d",
            "postgres://canary@h/d?sslmode=prefer",
            "postgres://canary@h/d?sslmode=canary",
            "postgres://canary@h/d?canary=1",
            "postgres://canary@h/d?options=-c%20fsync",
            "postgres://canary@h/d?sslmode=verify-full&sslrootcert=/canary/none.pem",
            "postgres://canary@h/d?passfile=canary",
            "postgres:///canary",
        ] {
            let error = parse(url).expect_err(url);
            assert!(!error.contains("canary"), "{url}: {error}");
        }
    }

    #[test]
    fn keys_that_ask_for_the_default_are_accepted() {
        for query in [
            "sslmode=require&channel_binding=require",
            "sslmode=disable&channel_binding=prefer&connect_timeout=10&target_session_attrs=read-write",
            "sslrootcert=system",
        ] {
            let url = format!("postgres://u:p@db.example.com/d?{query}");
            let target = parse(&url).expect(query);
            assert_eq!(target.tls.is_some(), !query.contains("disable"), "{query}");
        }
    }

    #[test]
    fn the_error_names_the_key_that_is_refused() {
        for (query, named) in [
            ("options=-c%20fsync%3Doff", "options"),
            ("passfile=/p", "passfile"),
            ("sslmode=disable&channel_binding=require", "channel_binding"),
            ("connect_timeout=canary", "connect_timeout"),
            ("target_session_attrs=standby", "target_session_attrs"),
        ] {
            let error = parse(&format!("postgres://u@h/d?{query}")).expect_err(query);
            assert!(error.contains(named), "{query}: {error}");
        }
    }

    #[test]
    fn white_space_around_the_url_and_line_ends_behind_the_password_do_not_count() {
        let target = ConnectOptions::parse(" postgres://u@h/d?sslmode=disable \r\n", Some(" pass word \n"))
            .expect("a URL");
        assert_eq!(target.hosts[0].get_password(), Some(&b" pass word "[..]));
        let target = ConnectOptions::parse("postgres://u@127.0.0.1/d\n", None).expect("a URL");
        assert_eq!(target.hosts[0].get_dbname(), Some("d"));
    }

    #[test]
    fn a_target_shows_neither_user_nor_password() {
        let target = ConnectOptions::parse("postgres://canary@h1,h2:1/d?sslmode=disable", Some("canary"))
            .expect("a URL");
        assert_eq!(format!("{target:?}"), "h1:5432, h2:1 without TLS");
        assert_eq!(target.hosts[1].get_password(), Some(&b"canary"[..]));
        let own =
            ConnectOptions::parse("postgres://u:own@h/d?sslmode=disable", Some("other")).expect("a URL");
        assert_eq!(own.hosts[0].get_password(), Some(&b"own"[..]));
    }

    #[test]
    fn a_password_in_a_url_is_noticed() {
        assert!(ConnectOptions::has_password("postgres://u:p@h/d?sslmode=verify-full"));
        assert!(ConnectOptions::has_password("postgres://u@h/d?password=p"));
        assert!(!ConnectOptions::has_password("postgres://u@h/d?sslmode=verify-full"));
    }
}

//! Runs the cases of `sdk/cases` (see its README) over raw REST, by `tare` and by the Rust SDK: each of
//! them against a server of its own, with TLS off and on.

#![allow(clippy::disallowed_methods, reason = "how long a call takes is part of a case")]

mod matching;
mod proxy;
mod rest;
mod run;
mod rust;
mod scenario;
mod tare;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use self::run::{CaseClient, run_all};
use crate::support::{Server, binary};
use crate::tls::{self, Files, Identity};

/// The fixture of a caller: a server, and a key for each role.
pub struct CaseServer {
    pub url: String,
    pub upstream: Arc<Upstream>,
    /// The CA certificate of the server. `None` without TLS.
    pub ca_file: Option<PathBuf>,
    /// With neither role nor key for `none`.
    keys: BTreeMap<&'static str, String>,
    _server: Server,
    _files: Option<Files>,
}

/// The server's address, with one connection for each request.
pub struct Upstream {
    authority: String,
    identity: Option<Identity>,
}

impl Upstream {
    /// Sends a request and reads the whole response.
    pub fn send(&self, request: &[u8]) -> std::io::Result<Vec<u8>> {
        if let Some(identity) = &self.identity {
            return tls::exchange(&self.authority, identity.client(&[]), request);
        }
        let mut stream = TcpStream::connect(&self.authority)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(request)?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

const ALL: &str = "secrets/read,secrets/write,secrets/read/internal,secrets/write/internal";

/// The roles: name, user, scopes, further options.
const ROLES: [(&str, &str, &str, &[&str]); 7] = [
    ("admin", "cases", ALL, &[]),
    ("reader", "cases", "secrets/read", &[]),
    ("writer", "cases", "secrets/write", &[]),
    ("internal", "cases", "secrets/read/internal", &[]),
    ("limited", "cases", ALL, &["--realms", "cases-limited"]),
    ("other", "cases-other", ALL, &[]),
    ("revoked", "cases", ALL, &[]),
];

impl CaseServer {
    fn new(tls: bool) -> Self {
        let identity = tls.then(Identity::new);
        let started = identity.as_ref().map(|identity| Files::of(identity).start());
        let (files, server) = match started {
            Some((files, server)) => (Some(files), server),
            None => (None, Server::start()),
        };
        let mut keys: BTreeMap<_, _> = ROLES
            .into_iter()
            .map(|(role, user, scopes, more)| {
                (role, server.issue(user, scopes, &[&["--name", role], more].concat()))
            })
            .collect();
        let id = keys["revoked"].split('_').next().expect("an id");
        let mut revoke = Command::new(binary());
        revoke.args(["key", "revoke", "--data-dir"]).arg(server.process.data_dir()).arg(id);
        assert!(revoke.output().expect("the binary runs").status.success());
        keys.insert("unknown", format!("{}_{}", "0".repeat(16), "0".repeat(49)));
        let admin = &keys["admin"];
        keys.insert("malformed", admin[..admin.len() - 1].to_owned());
        Self {
            url: server.process.url.clone(),
            ca_file: files.as_ref().map(Files::cert),
            upstream: Arc::new(Upstream { authority: server.process.authority().to_owned(), identity }),
            keys,
            _server: server,
            _files: files,
        }
    }

    /// The key of a role, without `ak-`; none for `none`.
    pub fn key(&self, role: &str) -> Option<&str> {
        assert!(role == "none" || self.keys.contains_key(role), "there is no role {role:?}");
        self.keys.get(role).map(String::as_str)
    }
}

fn every_case_holds<C: CaseClient>(tls: bool, caller: impl FnOnce(Arc<CaseServer>) -> C) {
    let server = Arc::new(CaseServer::new(tls));
    run_all(&server, &caller(Arc::clone(&server)));
}

#[test]
fn every_case_holds_over_rest() {
    every_case_holds(false, rest::Rest::new);
}

#[test]
fn every_case_holds_over_rest_with_tls() {
    every_case_holds(true, rest::Rest::new);
}

#[test]
fn every_case_holds_by_tare() {
    every_case_holds(false, tare::Tare::new);
}

#[test]
fn every_case_holds_by_tare_with_tls() {
    every_case_holds(true, tare::Tare::new);
}

#[test]
fn every_case_holds_in_rust() {
    every_case_holds(false, rust::Sdk::new);
}

#[test]
fn every_case_holds_in_rust_with_tls() {
    every_case_holds(true, rust::Sdk::new);
}

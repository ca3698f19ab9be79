//! Shared code of the fuzz targets: the form of an input, and the private parsers.
//!
//! The first byte of an input selects the call. The rest is the format itself, so a corpus file can be written by hand.
//! There is one target for each format of untrusted bytes. A target fails when a parser panics, and when one of the
//! properties in its first lines does not hold.
//!
//! Parsers of the library crates are reached through their modules `fuzzing`. Parsers of the programs are compiled here by
//! path, because a program has no public items, and because its other dependencies would make this build many times as long.

use agentrouter_model::{Clock, Rng, RngError, Timestamp};

#[allow(dead_code, unused_imports)]
#[path = "../../crates/cli/src"]
mod cli {
    pub(crate) mod dotenv;
}

#[allow(dead_code)]
#[path = "../../crates/maintenance/src"]
mod maintenance {
    pub(crate) mod backup_file;
}

#[allow(dead_code)]
#[path = "../../crates/server/src/http"]
mod http {
    #[path = "gate/bearer.rs"]
    pub(crate) mod bearer;
    #[path = "body/frame.rs"]
    pub(crate) mod frame;
    #[path = "."]
    pub(crate) mod head {
        #[path = "head/media.rs"]
        pub(crate) mod media;
    }
}

/// The selector and the rest.
pub fn select(input: &[u8]) -> Option<(u8, &[u8])> {
    input.split_first().map(|(first, rest)| (*first, rest))
}

/// The input as text, cut where it is not UTF-8.
pub fn text(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}

/// A fixed instant.
pub struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_800_000_000_000_000)
    }
}

/// The same bytes every time: 7.
pub struct FixedRng;

impl Rng for FixedRng {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RngError> {
        bytes.fill(7);
        Ok(())
    }
}

/// The token of an `Authorization` header with these values.
pub fn bearer(values: &[&[u8]]) -> Option<String> {
    let values = values.iter().filter_map(|value| ::http::HeaderValue::from_bytes(value).ok());
    let headers = values.map(|value| (::http::header::AUTHORIZATION, value)).collect();
    http::bearer::bearer(&headers).map(ToOwned::to_owned)
}

/// Whether `body` is one gRPC frame.
pub fn is_frame(body: &[u8]) -> bool {
    http::frame::check_frame(body).is_ok()
}

/// Whether a JSON message of this content type is an object.
pub fn is_object(kind: &'static str, gzip: bool, body: &[u8], framed: bool) -> bool {
    let mut headers = ::http::HeaderMap::new();
    headers.insert(::http::header::CONTENT_TYPE, ::http::HeaderValue::from_static(kind));
    if gzip {
        headers.insert(::http::header::CONTENT_ENCODING, ::http::HeaderValue::from_static("gzip"));
    }
    http::frame::check_json(&headers, body, framed).is_ok()
}

/// The body of a gRPC-Web request in the text form, decoded.
pub fn plain(body: &[u8]) -> Option<Vec<u8>> {
    let request =
        ::http::Request::post("/").header(::http::header::CONTENT_TYPE, "application/grpc-web-text");
    let (mut parts, ()) = request.body(()).expect("a request").into_parts();
    assert!(http::head::media::take_text(&mut parts), "the text form");
    http::frame::plain(&parts, body.to_vec().into()).ok().map(Into::into)
}

/// The variables of a `.env` file.
pub fn variables(text: &str) -> Option<Vec<(String, String)>> {
    let entries = cli::dotenv::parse(text).ok()?;
    Some(entries.into_iter().map(|entry| (entry.name, entry.value.to_string())).collect())
}

/// The line of a `.env` file that has this variable.
pub fn variable_line(name: &str, value: &str) -> String {
    cli::dotenv::line(name, value).to_string()
}

/// Reads a backup: the number of its items if it is complete.
pub fn backup(bytes: &[u8]) -> Option<u64> {
    use std::io::Write as _;
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("a temporary file can be written");
    let mut reader = maintenance::backup_file::Reader::open(file.path()).ok()?;
    let mut items = 0;
    while reader.next().ok()?.is_some() {
        items += 1;
    }
    assert_eq!(reader.ended().map(|end| end.items), Some(items), "a complete backup has an end");
    Some(items)
}

/// Parses a line of a backup, and writes it again.
pub fn backup_line(text: &[u8]) -> Option<Vec<u8>> {
    maintenance::backup_file::format::Line::parse(text).ok()?.to_text().ok()
}

/// Parses the settings in a config file and on a command line. The error's text if they are refused.
pub fn settings(config: &[u8], flags: &[&str]) -> Result<(), String> {
    use std::ffi::OsString;
    use std::io::Write as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        settings: agentrouter_instance::settings::Settings,
    }
    impl AsMut<agentrouter_instance::settings::Settings> for Line {
        fn as_mut(&mut self) -> &mut agentrouter_instance::settings::Settings {
            &mut self.settings
        }
    }

    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(config).expect("a temporary file can be written");
    let mut line = vec![OsString::from("serve"), "--config".into(), file.path().into()];
    line.extend(flags.iter().map(OsString::from));
    agentrouter_instance::settings::parse::<Line>(&line).map(|_| ()).map_err(|error| format!("{error:#}"))
}

/// A duration of the settings.
pub fn duration(text: &str) -> Option<std::time::Duration> {
    agentrouter_instance::settings::duration(text).ok()
}

/// A network of the settings.
pub fn network(text: &str) -> Option<String> {
    agentrouter_instance::settings::network(text).ok().map(|network| network.to_string())
}

//! The message of a server that has started: its addresses, and the file with the first key.
//!
//! It goes to standard output: as text on a terminal, otherwise as one JSON object a line, like the log. `log.format`
//! decides if it is not `auto`. A program that started the server on port 0 reads the address from it.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::Path;

use agentrouter_instance::instance::BOOTSTRAP;
use agentrouter_instance::terminal::{data, shell_word};
use agentrouter_model::{Clock as _, SystemClock};

use crate::settings::LogFormat;

pub(crate) struct Greeting<'a> {
    /// The base URLs, in the order of `listen`. At least one.
    pub(crate) urls: &'a [String],
    /// The data directory.
    pub(crate) dir: &'a Path,
    /// Whether this start issued the first key.
    pub(crate) first: bool,
}

impl Greeting<'_> {
    /// Prints it. A standard output that is closed does not end the server.
    pub(crate) fn print(&self, format: LogFormat) {
        let json = match format {
            LogFormat::Auto => !std::io::stdout().is_terminal(),
            LogFormat::Json => true,
            LogFormat::Pretty => false,
        };
        if let Err(error) = data(&if json { self.json() } else { self.text() }) {
            tracing::warn!(error = &*error as &dyn std::error::Error, "the addresses were not printed");
        }
    }

    fn json(&self) -> String {
        let bootstrap = self.dir.join(BOOTSTRAP);
        let mut line = serde_json::json!({
            "timestamp": SystemClock.now().to_string(),
            "level": "INFO",
            "target": module_path!(),
            "message": format!("agentrouter-secrets {} listens", env!("CARGO_PKG_VERSION")),
            "urls": self.urls,
        });
        if bootstrap.is_file() {
            line["first_key_file"] = bootstrap.display().to_string().into();
        }
        format!("{line}\n")
    }

    fn text(&self) -> String {
        let mut text = format!(
            "agentrouter-secrets {} listens on {}\n",
            env!("CARGO_PKG_VERSION"),
            self.urls.join(", ")
        );
        // Writing to a string does not fail.
        let url = self.urls.first().map_or("", String::as_str);
        if url.starts_with("http") {
            let _ = writeln!(text, "  console    {url}/\n  reference  {url}/docs");
        }
        let bootstrap = self.dir.join(BOOTSTRAP);
        if !bootstrap.is_file() {
            return text;
        }
        let path = bootstrap.display().to_string();
        // The command '.' looks for a name without a slash in PATH.
        let path = if path.contains('/') { path } else { format!("./{path}") };
        if self.first {
            let _ = writeln!(text, "  first key  {path} (user admin, all scopes; keep it or revoke it)");
        }
        let curl = match url.strip_prefix("unix:") {
            Some(socket) => {
                format!("curl --unix-socket {} \"http://localhost/v1/secrets\"", shell_word(socket))
            }
            None => "curl \"${AGENTROUTER_BASE_URL}/v1/secrets\"".to_owned(),
        };
        let _ = writeln!(text, "Try it:\n  . {}", shell_word(&path));
        let _ = writeln!(text, "  {curl} -H \"Authorization: Bearer ak-${{AGENTROUTER_API_KEY}}\"");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quoted_for_the_shell_and_for_json() {
        let outer = tempfile::tempdir().expect("a directory");
        let dir = outer.path().join("my $dir \"x\"");
        std::fs::create_dir(&dir).expect("made");
        std::fs::write(dir.join(BOOTSTRAP), "").expect("written");
        let urls = ["http://127.0.0.1:1".to_owned(), "unix:/s".to_owned()];
        let greeting = Greeting { urls: &urls, dir: &dir, first: true };
        let path = dir.join(BOOTSTRAP).display().to_string();
        assert!(greeting.text().contains(&format!("\n  . '{path}'\n")), "{}", greeting.text());
        let line = greeting.json();
        assert_eq!(line.matches('\n').count(), 1);
        let parsed: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(parsed["first_key_file"], path);
        assert_eq!(parsed["urls"], serde_json::json!(urls));
    }
}

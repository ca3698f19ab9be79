//! Starts programs: from the workspace's root, without a stdin. Each command line is printed before it runs.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The workspace's root.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The workspace that this program was built in.
    pub(crate) fn find() -> Result<Self> {
        // Set by `cargo run`. The compiled-in path is for a binary that is started without cargo.
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest.parent().context("xtask is not in a workspace")?;
        Ok(Self::at(root))
    }

    /// The workspace at `root`.
    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// A path in the workspace.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// The target directory.
    ///
    /// # Errors
    /// When cargo does not report it.
    pub(crate) fn target(&self) -> Result<PathBuf> {
        #[derive(serde::Deserialize)]
        struct Metadata {
            target_directory: PathBuf,
        }
        let arguments = ["metadata", "--format-version", "1", "--no-deps"];
        let metadata: Metadata = serde_json::from_slice(&self.cargo(&arguments).output()?)?;
        Ok(metadata.target_directory)
    }

    /// A command of the `cargo` that runs this program.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Invocation {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        self.program(cargo, arguments).shown_as("cargo")
    }

    /// A command of another program.
    pub(crate) fn program(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Invocation {
        let mut command = Command::new(program.as_ref());
        command.args(arguments).current_dir(&self.root).stdin(Stdio::null());
        let name = program.as_ref().to_string_lossy().into_owned();
        Invocation { command, name }
    }
}

/// A program to be run.
pub(crate) struct Invocation {
    command: Command,
    name: String,
}

impl Invocation {
    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it in a folder of the workspace instead of its root.
    pub(crate) fn within(mut self, folder: &std::path::Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    fn shown_as(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// The printed command line.
    pub(crate) fn line(&self) -> String {
        let arguments = self.command.get_args().map(OsStr::to_string_lossy);
        std::iter::once(self.name.as_str().into()).chain(arguments).collect::<Vec<_>>().join(" ")
    }

    /// Runs it with this process's stdout and stderr.
    ///
    /// # Errors
    /// When it cannot be started or does not end with 0.
    pub(crate) fn run(mut self) -> Result<()> {
        let line = self.line();
        println!("$ {line}");
        let status = self.command.status().with_context(|| format!("cannot start `{line}`"))?;
        if !status.success() {
            bail!("`{line}` ended with {status}");
        }
        Ok(())
    }

    /// Runs it, prints each line of its stdout and passes it to `look`. Returns whether it exited with 0.
    ///
    /// # Errors
    /// When it cannot be started or read from.
    pub(crate) fn run_watched(mut self, mut look: impl FnMut(&str)) -> Result<bool> {
        let line = self.line();
        println!("$ {line}");
        self.command.stdout(Stdio::piped());
        let mut child = self.command.spawn().with_context(|| format!("cannot start `{line}`"))?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        for text in BufReader::new(stdout).split(b'\n') {
            let text = text.with_context(|| format!("cannot read the output of `{line}`"))?;
            let text = String::from_utf8_lossy(&text);
            println!("{text}");
            look(&text);
        }
        Ok(child.wait()?.success())
    }

    /// Runs it silently. Returns whether it exited with 0, and its output.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn said(mut self) -> Result<(bool, String)> {
        let line = self.line();
        let output = self.command.output().with_context(|| format!("cannot start `{line}`"))?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    }

    /// Runs it silently and returns its stdout.
    ///
    /// # Errors
    /// When it cannot be started or does not end with 0; the message has its stderr.
    pub(crate) fn output(mut self) -> Result<Vec<u8>> {
        let line = self.line();
        let output = self.command.output().with_context(|| format!("cannot start `{line}`"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`{line}` ended with {}: {}", output.status, said.trim());
        }
        Ok(output.stdout)
    }
}

/// Whether the `PATH` has a program of this name.
pub(crate) fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Invocation {
        Workspace::at("/").program("sh", &["-c", script])
    }

    #[test]
    fn a_program_that_fails_is_an_error_with_its_command_line_and_output() {
        assert!(shell("exit 0").run().is_ok());
        let error = shell("echo why >&2; exit 3").output().expect_err("it ended with 3").to_string();
        assert!(error.contains("sh -c") && error.contains("why"), "{error}");
        assert!(shell("exit 3").run().is_err());
    }

    #[test]
    fn a_watched_program_is_seen_line_by_line_and_gets_no_stdin() {
        let mut lines = Vec::new();
        let well = shell("echo a; cat; echo b; exit 1").run_watched(|line| lines.push(line.to_owned()));
        assert_eq!((lines, well.expect("started")), (vec!["a".to_owned(), "b".to_owned()], false));
    }

    #[test]
    fn the_workspace_is_the_folder_of_the_lock_file() {
        let workspace = Workspace::find().expect("a workspace");
        assert!(workspace.root.join("Cargo.lock").is_file());
        assert!(is_in_path("sh") && !is_in_path("no-such-program-here"));
    }
}

//! `cargo xtask bench`: builds what is measured as it is handed out, installs what it is compared with, and runs
//! `agentrouter-bench`, to which everything after the command is handed over.

use anyhow::{Result, ensure};

use crate::dist;
use crate::process::Workspace;
use crate::step::Outcome;
use crate::tools::{self, Program};

/// What it is compared with, or stands on.
const PROGRAMS: &[Program] = &[
    Program { name: "nginx", package: "nginx-light" },
    // The server's own programs lie outside the `PATH`; this one comes with them.
    Program { name: "pg_ctlcluster", package: "postgresql" },
];

/// The commands of `agentrouter-bench`; without one it is the first.
const COMMANDS: &[&str] = &["run", "overload", "scale", "replicas"];

/// Leaves the server as `cargo build --release` makes it, without a profile.
const PLAIN: &str = "--plain";

/// Measures. `--write` among the arguments puts the results into `docs/`; with [`PLAIN`] the server is built in half of the
/// time, and slower.
///
/// # Errors
/// When something cannot be built, installed or measured.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    tools::install_missing(workspace, PROGRAMS)?;
    let target = workspace.target()?;
    let build = |what: &[&str]| {
        let arguments = [&["build", "--release", "--locked"], what].concat();
        workspace.cargo(&arguments).env("CARGO_TARGET_DIR", &target).run()
    };
    let at = |name: &str| target.join("release").join(name);
    // One by one: built together they would have each other's features, which the released server has not.
    let server = if arguments.iter().any(|argument| argument == PLAIN) {
        build(&["--package", "agentrouter-secrets"])?;
        at("agentrouter-secrets")
    } else {
        dist::run(workspace)?
    };
    build(&["--package", "agentrouter-bench"])?;
    build(&["--manifest-path", TOY])?;
    let (server, toy) = (server.to_string_lossy(), at("agentrouter-toy"));
    let docs = workspace.path("docs").to_string_lossy().into_owned();
    let mut line = command_line(arguments, &docs);
    line.extend(["--server", &server, "--toy", &toy.to_string_lossy()].map(str::to_owned));
    let line: Vec<_> = line.iter().map(String::as_str).collect();
    workspace.program(at("agentrouter-bench"), &line).run()
}

/// The step: the benchmark itself works. A trial over a small store with what the tests have built; nothing is concluded
/// from its figures.
///
/// # Errors
/// When something does not start, or answers as it should not.
pub(crate) fn check(workspace: &Workspace) -> Result<Outcome> {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return Ok(Outcome::NotChecked("a benchmark needs two processors".to_owned()));
    }
    tools::install_missing(workspace, &PROGRAMS[..1])?;
    workspace.cargo(&["build", "--locked", "--package", "agentrouter-secrets"]).run()?;
    workspace.cargo(&["build", "--locked", "--package", "agentrouter-bench"]).run()?;
    let target = workspace.target()?;
    let at = |name: &str| target.join("debug").join(name).to_string_lossy().into_owned();
    let cases = TRIED.join(",");
    let trial = ["run", "--only", &cases, "--quick", "--secrets", "200", "--server"];
    let said = workspace
        .program(at("agentrouter-bench"), &[&trial[..], &[&at("agentrouter-secrets")]].concat())
        .output()?;
    let said = String::from_utf8(said)?;
    let rows = said.lines().filter(|line| TRIED.iter().any(|case| line.starts_with(&format!("| {case} "))));
    ensure!(rows.count() == TRIED.len(), "the benchmark measured something else:\n{said}");
    Ok(Outcome::Passed(format!("measured {}", TRIED.join(", "))))
}

/// The cases of the step.
const TRIED: &[&str] = &["rest.value.one", "grpc.create"];

/// The toy's own workspace.
pub(crate) const TOY: &str = "bench/toy/Cargo.toml";

/// The arguments for `agentrouter-bench`: with a command, and with the folder of pages in place of `--write`.
fn command_line(arguments: &[String], docs: &str) -> Vec<String> {
    let mut line = Vec::new();
    if !arguments.first().is_some_and(|first| COMMANDS.contains(&first.as_str())) {
        line.extend(COMMANDS.first().map(|first| (*first).to_owned()));
    }
    for argument in arguments {
        match argument.as_str() {
            PLAIN => {}
            "--write" => line.extend(["--docs".to_owned(), docs.to_owned()]),
            other => line.push(other.to_owned()),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(arguments: &[&str]) -> String {
        let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        command_line(&arguments, "/docs").join(" ")
    }

    #[test]
    fn without_a_command_it_is_a_run() {
        assert_eq!(line(&[]), "run");
        assert_eq!(line(&["--only", "scale"]), "run --only scale");
        assert_eq!(line(&["scale", "--write", "--plain"]), "scale --docs /docs");
    }
}

//! `cargo xtask bench`: builds the server for distribution, installs nginx and PostgreSQL, and runs `agentrouter-bench` with
//! the remaining arguments.

use anyhow::{Result, ensure};

use crate::dist;
use crate::process::Workspace;
use crate::step::Outcome;
use crate::tools::{self, Program};

/// The programs that a benchmark starts.
const PROGRAMS: &[Program] = &[
    Program { name: "nginx", package: "nginx-light" },
    // PostgreSQL's server programs are outside the `PATH`. This one is installed with them.
    Program { name: "pg_ctlcluster", package: "postgresql" },
];

/// The commands of `agentrouter-bench`. The first one is the default.
const COMMANDS: &[&str] = &["run", "overload", "scale", "replicas", "keks"];

/// The argument that measures the server of `cargo build --release`, without a profile.
const PLAIN: &str = "--plain";

/// Measures. `--write` writes the results to `docs/`. With [`PLAIN`] the build is shorter and the server slower.
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
    // Separate builds: in one build cargo unifies the features, and the released server does not have those of the bench.
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

/// The step: the benchmark works. A short trial with a small store and the debug builds of the tests. Its figures are not
/// checked.
///
/// # Errors
/// When a program does not start, or a response is wrong.
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
    ensure!(rows.count() == TRIED.len(), "the benchmark did not measure the requested cases:\n{said}");
    let small =
        ["keks", "--secrets", "50", "--versions", "300", "--seconds", "0.3", "--rounds", "1", "--limit", "3"];
    let server = ["--server", &at("agentrouter-secrets")];
    let said = workspace.program(at("agentrouter-bench"), &[&small[..], &server].concat()).output()?;
    let said = String::from_utf8(said)?;
    ensure!(said.contains("| time, s "), "the benchmark did not rewrap a store:\n{said}");
    Ok(Outcome::Passed(format!("measured {}", TRIED.join(", "))))
}

/// The cases of the step.
const TRIED: &[&str] = &["rest.value.one", "grpc.create"];

/// The manifest of the toy, a separate workspace.
pub(crate) const TOY: &str = "bench/toy/Cargo.toml";

/// The arguments for `agentrouter-bench`: with a command, and with `--docs FOLDER` for `--write`.
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
    fn the_default_command_is_run() {
        assert_eq!(line(&[]), "run");
        assert_eq!(line(&["--only", "scale"]), "run --only scale");
        assert_eq!(line(&["scale", "--write", "--plain"]), "scale --docs /docs");
    }
}

//! The tests of the SDKs: their own, and the shared cases of `sdk/cases` against a server, with TLS off and on. A missing
//! toolchain is a failure, not a skipped step.

use anyhow::{Result, ensure};

use crate::process::{Invocation, Workspace, is_in_path};
use crate::step::Outcome;

/// Starts a server with the cases' keys and runs a command beside it.
const WITH_SERVER: &str = "sdk/cases/with-server";

/// The step for Go.
///
/// # Errors
/// When Go is missing or a test fails.
pub(crate) fn go(workspace: &Workspace) -> Result<Outcome> {
    need("go", "Go 1.24 or later")?;
    let folder = workspace.path("sdk/go");
    workspace.program("go", &["vet", "./..."]).within(&folder).run()?;
    workspace.program("go", &["test", "-count=1", "./..."]).within(&folder).run()?;
    cases(workspace, &folder, &["go", "test", "-count=1", "-run", "^TestCases$", ".", "-cases"])
}

/// The step for Python, in a virtual environment of its own in the target directory.
///
/// # Errors
/// When Python is missing or a test fails.
pub(crate) fn python(workspace: &Workspace) -> Result<Outcome> {
    need("python3", "Python 3.10 or later, with venv")?;
    let folder = workspace.path("sdk/python");
    let environment = workspace.target()?.join("tools/python-sdk");
    let at = |program: &str| environment.join("bin").join(program).to_string_lossy().into_owned();
    let path = environment.to_string_lossy().into_owned();
    workspace.program("python3", &["-m", "venv", "--clear", &path]).run()?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    workspace.program(at("python"), &[&pip[..], &["--upgrade", "pip"]].concat()).run()?;
    workspace.program(at("python"), &[&pip[..], &["--editable", ".[dev]"]].concat()).within(&folder).run()?;
    workspace.program(at("mypy"), &[]).within(&folder).run()?;
    let pytest = at("pytest");
    workspace.program(&pytest, &["-q"]).within(&folder).run()?;
    cases(workspace, &folder, &[&pytest, "-q", "tests/test_cases.py"])
}

/// The step for TypeScript.
///
/// # Errors
/// When Node is missing or a test fails.
pub(crate) fn typescript(workspace: &Workspace) -> Result<Outcome> {
    need("node", "Node 20.16 or later")?;
    need("npm", "npm")?;
    let folder = workspace.path("sdk/typescript");
    workspace.program("npm", &["ci", "--no-audit", "--no-fund"]).within(&folder).run()?;
    workspace.program("npm", &["test"]).within(&folder).run()?;
    cases(workspace, &folder, &["npm", "run", "test:cases"])
}

/// Runs an SDK's runner of the cases, without TLS and with it.
fn cases(workspace: &Workspace, folder: &std::path::Path, runner: &[&str]) -> Result<Outcome> {
    let server = built_server(workspace)?;
    for tls in [&[][..], &["--tls"]] {
        let run = with_server(workspace, &[tls, runner].concat()).within(folder);
        run.env("AGENTROUTER_SERVER", &server).run()?;
    }
    Ok(Outcome::Passed("its own tests and the shared cases, with TLS off and on".to_owned()))
}

/// The debug build of the server, built if it is missing.
pub(crate) fn built_server(workspace: &Workspace) -> Result<std::path::PathBuf> {
    workspace.cargo(&["build", "--locked", "--package", "agentrouter-secrets"]).run()?;
    Ok(workspace.target()?.join("debug/agentrouter-secrets"))
}

/// A command that runs beside a server with the cases' keys.
pub(crate) fn with_server(workspace: &Workspace, arguments: &[&str]) -> Invocation {
    workspace.program(workspace.path(WITH_SERVER), arguments)
}

/// Fails if a program is missing, with a message that names `what`.
pub(crate) fn need(program: &str, what: &str) -> Result<()> {
    ensure!(is_in_path(program), "{what} is missing: there is no `{program}` in the PATH; install it");
    Ok(())
}

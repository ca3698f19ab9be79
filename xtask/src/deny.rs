//! `cargo deny`: licences, banned crates and sources by `deny.toml`; security advisories where their database can be
//! had.
//!
//! The tool is built once into `target/tools`, without optimisation, which takes two minutes on one core instead of
//! ten; a check takes a second either way. One of the right version in the `PATH` is used as it is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::{Workspace, is_in_path};
use crate::step::Outcome;

/// The version that `deny.toml` is written for.
const VERSION: &str = "0.20.2";

/// The step: what can be decided from the lock file alone.
///
/// # Errors
/// When the tool cannot be had, or a crate breaks a rule of `deny.toml`.
pub(crate) fn check(workspace: &Workspace) -> Result<Outcome> {
    run(
        workspace,
        &["--locked", "--all-features", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"],
    )?;
    Ok(Outcome::Passed("licences, bans, sources".to_owned()))
}

/// The step for `--full`: known vulnerabilities. Their database lies in a git repository of its own, which a closed
/// network may not reach; that is said, and is no failure.
///
/// # Errors
/// When the tool cannot be had, or a crate has an advisory.
pub(crate) fn check_advisories(workspace: &Workspace) -> Result<Outcome> {
    let tool = provide(workspace)?;
    if let Err(error) = workspace.program(&tool, &["fetch", "db"]).run() {
        return Ok(Outcome::NotChecked(format!("the advisory database could not be had: {error:#}")));
    }
    run(workspace, &["--locked", "--all-features", "check", "--hide-inclusion-graph", "advisories"])?;
    Ok(Outcome::Passed("no advisory".to_owned()))
}

fn run(workspace: &Workspace, arguments: &[&str]) -> Result<()> {
    workspace.program(provide(workspace)?, arguments).run()
}

/// The tool's path, built first if need be.
fn provide(workspace: &Workspace) -> Result<PathBuf> {
    if is_in_path("cargo-deny") && is_right(workspace, Path::new("cargo-deny")) {
        return Ok("cargo-deny".into());
    }
    let folder = tools(workspace)?;
    let tool = folder.join("bin/cargo-deny");
    if is_right(workspace, &tool) {
        return Ok(tool);
    }
    let (root, build) = (folder.to_string_lossy(), folder.join("build"));
    workspace
        .cargo(&["install", "cargo-deny", "--version", VERSION, "--locked", "--force", "--root", &root])
        .env("CARGO_TARGET_DIR", &build)
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .run()
        .context("cargo-deny cannot be built")?;
    // Half a gigabyte that nothing needs again; if it stays, nothing is wrong.
    let _ = std::fs::remove_dir_all(build);
    Ok(tool)
}

/// Whether this is the tool, in the version wanted.
fn is_right(workspace: &Workspace, tool: &Path) -> bool {
    let said = workspace.program(tool, &["--version"]).output().unwrap_or_default();
    String::from_utf8_lossy(&said).trim() == format!("cargo-deny {VERSION}")
}

/// The folder for tools: in the target directory, wherever the user has put that.
fn tools(workspace: &Workspace) -> Result<PathBuf> {
    Ok(workspace.target()?.join("tools"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_program_or_version_is_not_the_tool() {
        let workspace = Workspace::find().expect("a workspace");
        assert!(!is_right(&workspace, Path::new("true")));
        assert!(!is_right(&workspace, Path::new("/no/such/tool")));
    }

    #[test]
    fn tools_go_into_the_target_directory() {
        let workspace = Workspace::find().expect("a workspace");
        let folder = tools(&workspace).expect("metadata");
        assert!(folder.is_absolute() && folder.ends_with("tools"));
    }
}

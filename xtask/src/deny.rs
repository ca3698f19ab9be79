//! `cargo deny`: licences, banned crates and sources by `deny.toml`, and security advisories if their database can be
//! reached.
//!
//! The tool is built once into `target/tools`, without optimisation for a short build. If the `PATH` has one of the right
//! version, it is used.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::{Workspace, is_in_path};
use crate::step::Outcome;

/// The version that `deny.toml` is written for.
const VERSION: &str = "0.20.2";

/// The step: the checks that need the lock file only.
///
/// # Errors
/// When the tool cannot be installed, or a crate breaks a rule of `deny.toml`.
pub(crate) fn check(workspace: &Workspace) -> Result<Outcome> {
    run(
        workspace,
        &["--locked", "--all-features", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"],
    )?;
    Ok(Outcome::Passed("licences, bans, sources".to_owned()))
}

/// The step for `--full`: known vulnerabilities. Their database is a git repository. If the network cannot reach it, the
/// step is not checked.
///
/// # Errors
/// When the tool cannot be installed, or a crate has an advisory.
pub(crate) fn check_advisories(workspace: &Workspace) -> Result<Outcome> {
    let tool = provide(workspace)?;
    if let Err(error) = workspace.program(&tool, &["fetch", "db"]).run() {
        return Ok(Outcome::NotChecked(format!("the advisory database could not be fetched: {error:#}")));
    }
    run(workspace, &["--locked", "--all-features", "check", "--hide-inclusion-graph", "advisories"])?;
    Ok(Outcome::Passed("no advisory".to_owned()))
}

fn run(workspace: &Workspace, arguments: &[&str]) -> Result<()> {
    workspace.program(provide(workspace)?, arguments).run()
}

/// The tool's path. It is built first if it is missing.
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
    // Half a gigabyte that is not needed again. A failure to remove it does no harm.
    let _ = std::fs::remove_dir_all(build);
    Ok(tool)
}

/// Whether this is the tool in the right version.
fn is_right(workspace: &Workspace, tool: &Path) -> bool {
    let version = workspace.program(tool, &["--version"]).output();
    version.is_ok_and(|text| text.trim_ascii() == format!("cargo-deny {VERSION}").as_bytes())
}

/// The folder for tools, in the target directory.
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
    fn tools_are_installed_into_the_target_directory() {
        let workspace = Workspace::find().expect("a workspace");
        let folder = tools(&workspace).expect("metadata");
        assert!(folder.is_absolute() && folder.ends_with("tools"));
    }
}

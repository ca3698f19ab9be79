//! `cargo deny`: licences, banned crates and sources by `deny.toml`, and security advisories from the dated copy in
//! `xtask/advisories`.
//!
//! The tool is built once into `target/tools`, without optimisation for a short build. If the `PATH` has one of the right
//! version, it is used.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::{Workspace, is_in_path};
use crate::step::Outcome;

/// The version that `deny.toml` is written for.
const VERSION: &str = "0.20.2";

/// The folder in which this version looks for the RustSec database: the name and a hash of its address.
const DATABASE: &str = "advisory-db-3157b0e258782691";

/// The step warns when the copy of the advisories is older.
const STALE_DAYS: i64 = 90;

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

/// The step: known vulnerabilities, from the copy of the advisories, without the network.
///
/// # Errors
/// When the tool cannot be installed, the copy cannot be read, or a crate has an advisory.
pub(crate) fn check_advisories(workspace: &Workspace) -> Result<Outcome> {
    let taken = taken_on(&fs::read_to_string(workspace.path("xtask/advisories/README.md"))?)?;
    let databases = tools(workspace)?.join("advisory-dbs");
    unpack(workspace, &databases.join(DATABASE))?;
    // The check reads all crates of the lock file, those for other systems included.
    workspace.cargo(&["fetch", "--locked"]).run()?;
    let arguments =
        ["--locked", "--offline", "--all-features", "check", "--hide-inclusion-graph", "advisories"];
    workspace.program(provide(workspace)?, &arguments).env("AGENTROUTER_ADVISORY_DBS", &databases).run()?;
    #[expect(clippy::disallowed_methods, reason = "the age of the copy decides on a warning only")]
    let now = jiff::Timestamp::now();
    let age = (now.as_second() - taken.as_second()) / (24 * 60 * 60);
    let warning = if age > STALE_DAYS {
        format!("; WARNING: the copy is {age} days old, see xtask/advisories/README.md")
    } else {
        String::new()
    };
    Ok(Outcome::Passed(format!("no advisory as of {taken:.0}{warning}")))
}

/// The start, in UTC, of the day in the line that names the copy.
fn taken_on(readme: &str) -> Result<jiff::Timestamp> {
    let line = readme.lines().find_map(|line| line.strip_prefix("Taken on "));
    let day =
        line.and_then(|line| line.split(' ').next()).context("the copy of the advisories has no date")?;
    format!("{day}T00:00:00Z").parse().with_context(|| format!("'{day}' is no date"))
}

/// Unpacks the copy as the tool expects it: a clone of the database that was just fetched.
fn unpack(workspace: &Workspace, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).context("the older copy of the advisories cannot be removed")?;
    }
    let copy = fs::File::open(workspace.path("xtask/advisories/advisory-db.tar.gz"))?;
    tar::Archive::new(flate2::read::GzDecoder::new(copy)).unpack(folder)?;
    fs::create_dir_all(folder.join(".git"))?;
    fs::write(folder.join(".git/FETCH_HEAD"), "")?;
    Ok(())
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
    let _ = fs::remove_dir_all(build);
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
    fn the_copy_of_the_advisories_has_a_date_and_what_it_needs() {
        let workspace = Workspace::find().expect("a workspace");
        let readme = fs::read_to_string(workspace.path("xtask/advisories/README.md")).expect("a README");
        assert!(taken_on(&readme).expect("a date").as_second() > 1_767_225_600);
        assert!(taken_on("Taken on Friday at noon").is_err() && taken_on("").is_err());
        let folder = workspace.target().expect("metadata").join("tmp/advisories-test");
        unpack(&workspace, &folder).expect("the copy unpacks");
        assert!(folder.join("crates/hyper").is_dir() && folder.join("LICENSE.txt").is_file());
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn tools_are_installed_into_the_target_directory() {
        let workspace = Workspace::find().expect("a workspace");
        let folder = tools(&workspace).expect("metadata");
        assert!(folder.is_absolute() && folder.ends_with("tools"));
    }
}

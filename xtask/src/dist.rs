//! `cargo xtask dist`: builds the server for distribution, with profile-guided optimisation.
//!
//! ```text
//! instrumented server ── agentrouter-bench train ──> raw profiles ── llvm-profdata ──> profile ──> target/dist/
//! ```
//!
//! `cargo xtask bench` with and without `--plain` shows the gain. It takes two builds with link-time optimisation, so
//! `cargo build --release` does not use it. See <https://doc.rust-lang.org/rustc/profile-guided-optimization.html>.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use crate::process::Workspace;

/// Builds the server, and returns its path.
///
/// # Errors
/// When a build fails, or the toolchain's `llvm-profdata` is missing and cannot be installed.
pub(crate) fn run(workspace: &Workspace) -> Result<PathBuf> {
    let toolchain = Toolchain::find(workspace)?;
    let target = workspace.target()?;
    let work = target.join("profile");
    std::fs::create_dir_all(&work).with_context(|| format!("{} cannot be created", work.display()))?;
    let raw = work.join("raw");
    let instrumented = build(workspace, &toolchain, &format!("-Cprofile-generate={}", raw.display()))?;
    // One profile for each instrumented build, named by the build's time: cargo compares the name only, not the content.
    let stamp = std::fs::metadata(&instrumented)?.modified()?.duration_since(SystemTime::UNIX_EPOCH)?;
    let profile = work.join(format!("{}.profdata", stamp.as_nanos()));
    if !profile.is_file() {
        let server = work.join("agentrouter-secrets");
        std::fs::copy(&instrumented, &server)?;
        train(workspace, &target, &server, &raw)?;
        let (from, to) = (raw.to_string_lossy(), profile.to_string_lossy());
        workspace.program(&toolchain.profdata, &["merge", "-o", &to, &from]).run()?;
    }
    let built = build(workspace, &toolchain, &format!("-Cprofile-use={}", profile.display()))?;
    let dist = target.join("dist").join("agentrouter-secrets");
    std::fs::create_dir_all(dist.parent().context("it has a folder")?)?;
    std::fs::copy(&built, &dist).with_context(|| format!("{} cannot be written", dist.display()))?;
    Ok(dist)
}

/// The parts of the toolchain that are used beside cargo.
struct Toolchain {
    /// The target triple. It is passed explicitly, so that build scripts and macros are not instrumented.
    host: String,
    profdata: PathBuf,
}

impl Toolchain {
    fn find(workspace: &Workspace) -> Result<Self> {
        let said = String::from_utf8(workspace.program("rustc", &["-vV"]).output()?)?;
        let host =
            said.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names its host")?;
        let sysroot = String::from_utf8(workspace.program("rustc", &["--print", "sysroot"]).output()?)?;
        let profdata = Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("bin/llvm-profdata");
        if !profdata.is_file() {
            let by_hand = "the toolchain lacks `llvm-profdata`: run `rustup component add llvm-tools`";
            workspace.program("rustup", &["component", "add", "llvm-tools"]).run().context(by_hand)?;
            ensure!(profdata.is_file(), by_hand);
        }
        Ok(Self { host: host.to_owned(), profdata })
    }
}

/// Builds with `flag`, which may contain spaces.
fn build(workspace: &Workspace, toolchain: &Toolchain, flag: &str) -> Result<PathBuf> {
    let target = workspace.target()?;
    let arguments = [
        "build",
        "--profile",
        "dist",
        "--locked",
        "--package",
        "agentrouter-secrets",
        "--target",
        &toolchain.host,
    ];
    workspace
        .cargo(&arguments)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", flag)
        .run()?;
    Ok(target.join(&toolchain.host).join("dist").join("agentrouter-secrets"))
}

/// Runs the training load on the instrumented server, which writes its counts to `raw` when it exits.
fn train(workspace: &Workspace, target: &Path, server: &Path, raw: &Path) -> Result<()> {
    if raw.exists() {
        std::fs::remove_dir_all(raw).with_context(|| format!("{} cannot be removed", raw.display()))?;
    }
    let build = ["build", "--release", "--locked", "--package", "agentrouter-bench"];
    workspace.cargo(&build).env("CARGO_TARGET_DIR", target).run()?;
    let bench = target.join("release").join("agentrouter-bench");
    workspace.program(bench, &["train", "--server", &server.to_string_lossy()]).run()
}

//! `cargo xtask dist`: the server as it is handed out, optimised by a profile of what it does most.
//!
//! ```text
//! instrumented server ── agentrouter-bench train ──> raw profiles ── llvm-profdata ──> profile ──> target/dist/
//! ```
//!
//! Measured on one core against `cargo build --release`: a read takes a sixth less processor time (14.8 µs to 12.4, the
//! medians of five rounds each). It takes two whole builds with link-time optimisation, so `cargo build --release` does
//! without. See <https://doc.rust-lang.org/rustc/profile-guided-optimization.html>.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use crate::process::Workspace;

/// Builds it, and returns where it is.
///
/// # Errors
/// When something cannot be built, or the toolchain's `llvm-profdata` is missing and cannot be installed.
pub(crate) fn run(workspace: &Workspace) -> Result<PathBuf> {
    let toolchain = Toolchain::find(workspace)?;
    let target = workspace.target()?;
    let work = target.join("profile");
    std::fs::create_dir_all(&work).with_context(|| format!("{} cannot be made", work.display()))?;
    let raw = work.join("raw");
    let instrumented = build(workspace, &toolchain, &format!("-Cprofile-generate={}", raw.display()))?;
    // One profile for each such build, by its time: cargo does not look into the file, so a new one has a new name.
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

/// What of the toolchain is needed beside cargo.
struct Toolchain {
    /// The triple that is built for, named so that build scripts and macros are not instrumented.
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

/// `flag` goes to rustc as it is, spaces in its path included.
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

/// Has the instrumented server do what it does most; it leaves its counts in `raw` when it ends.
fn train(workspace: &Workspace, target: &Path, server: &Path, raw: &Path) -> Result<()> {
    if raw.exists() {
        std::fs::remove_dir_all(raw).with_context(|| format!("{} cannot be removed", raw.display()))?;
    }
    let build = ["build", "--release", "--locked", "--package", "agentrouter-bench"];
    workspace.cargo(&build).env("CARGO_TARGET_DIR", target).run()?;
    let bench = target.join("release").join("agentrouter-bench");
    workspace.program(bench, &["train", "--server", &server.to_string_lossy()]).run()
}

//! The commands of the pages in `docs/kek/`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The `bash` blocks of a page, in order.
pub(crate) fn commands(provider: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../docs/kek/{provider}.md"));
    let page = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in page.lines() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some("bash"), None) => open = Some(String::new()),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            // A block within a list is indented by three spaces.
            (None, Some(block)) => {
                block.push_str(line.strip_prefix("   ").unwrap_or(line));
                block.push('\n');
            }
            (_, None) => {}
        }
    }
    blocks
}

/// Runs commands in `folder`. Returns their output without its last line end.
pub(crate) fn run(text: &str, folder: &Path, environment: &[(&str, &OsStr)]) -> String {
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", text])
        .current_dir(folder)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("bash runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{}\n{out}\n{err}", output.status);
    out.trim_end().to_owned()
}

/// A program that the step has installed.
pub(crate) fn installed(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable);
    PathBuf::from(path.unwrap_or_else(|| panic!("{variable} is not set; run `cargo xtask test --only kms`")))
}

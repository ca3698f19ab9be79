//! The audit log, checked from outside: each request is recorded before it has an effect, and nothing is done without a
//! record.

mod anchors;
mod calls;
mod disconnected;
mod head;
mod outage;
mod pruning;
mod records;
mod shipping;
mod sweep;
mod tampering;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::run;

/// The audit log of a data directory, read line by line as it grows.
struct Trail {
    dir: PathBuf,
    read: usize,
}

impl Trail {
    /// Starts at the end of the log: returns only later records.
    fn from_now(data: &Path) -> Self {
        let mut trail = Self { dir: data.join("audit"), read: 0 };
        trail.news();
        trail
    }

    /// The records since the last call, in order.
    fn news(&mut self) -> Vec<Value> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(&self.dir)
            .expect("the audit log")
            .map(|file| file.expect("a file").path())
            .filter(|file| file.extension().is_some_and(|extension| extension == "jsonl"))
            .collect();
        // A full file is named after its first record and sorts before the current file.
        files.sort();
        let text: String =
            files.iter().map(|file| std::fs::read_to_string(file).expect("readable")).collect();
        let lines: Vec<&str> = text.lines().collect();
        let records = lines[self.read..].iter().map(|line| serde_json::from_str(line).expect("a record"));
        let records = records.collect();
        self.read = lines.len();
        records
    }
}

/// The output of `audit verify`, and whether it succeeded.
fn verify(data: &Path) -> (bool, String) {
    let output = run(&["audit", "verify", "--data-dir", data.to_str().expect("a path")]);
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

fn assert_clean(data: &Path) {
    let (clean, text) = verify(data);
    assert!(clean && text.contains("the chain is whole"), "{text}");
}

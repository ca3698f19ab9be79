//! The tests of the console's scripts. They need Node and no browser.

use anyhow::Result;

use crate::languages::need;
use crate::process::Workspace;
use crate::step::Outcome;

/// The test file.
const TESTS: &str = "crates/server/tests/console/metadata.test.mjs";

/// The step.
///
/// # Errors
/// When Node is missing or a test fails.
pub(crate) fn check(workspace: &Workspace) -> Result<Outcome> {
    need("node", "Node 20 or later")?;
    workspace.program("node", &["--test", TESTS]).run()?;
    Ok(Outcome::Passed("descriptions and tags, without a browser".to_owned()))
}

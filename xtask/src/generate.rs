//! `cargo xtask generate`: generates the SDKs' code from `proto/`.
//!
//! The definition is linted first and compared with `proto/baseline.binpb`, the released definition. A change of the meaning
//! of a message on the wire or in JSON is refused (`buf.yaml` has the rules). Then all files are generated into a folder of
//! the target directory and compared with the tree, byte by byte. `--check` reports the differences. Otherwise the files are
//! copied. `sdk/generated.txt` lists the generated files, so that a file that is no longer generated is removed. The stubs of
//! the Python messages get the comments of the definition.
//!
//! The build scripts of the Rust crates generate the code of those crates.

mod stubs;
mod tools;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use self::tools::Tools;
use crate::process::Workspace;
use crate::step::Outcome;

/// The templates of buf.
const TEMPLATES: &[&str] = &["buf.gen.yaml", "proto/third_party/buf.gen.yaml"];
/// The list of generated files.
const MANIFEST: &str = "sdk/generated.txt";
/// The messages of Go.
const GO_MESSAGES: &str = "sdk/go/genapi/api/tars/secret/v1/secret.pb.go";
/// The released definition.
const BASELINE: &str = "proto/baseline.binpb";

const MANIFEST_HEAD: &str =
    "# Files that 'cargo xtask generate' makes. Do not edit them, nor this list: change proto/ and run it.\n";

/// Generates the files in the tree.
///
/// # Errors
/// When a tool cannot be installed, the definition breaks a rule, or the tree cannot be written.
pub(crate) fn write(workspace: &Workspace) -> Result<Outcome> {
    let tools = Tools::provide(workspace)?;
    judge(&tools)?;
    let made = make(&tools)?;
    let changed = differences(&tools.root, &made)?;
    for path in &changed {
        let target = tools.root.join(path);
        match fs::read(made.folder.join(path)) {
            Ok(content) => {
                fs::create_dir_all(target.parent().context("a file is in a folder")?)?;
                fs::write(&target, content).with_context(|| format!("cannot write {path}"))?;
            }
            Err(_) => fs::remove_file(&target).with_context(|| format!("cannot remove {path}"))?,
        }
        println!("changed {path}");
    }
    Ok(Outcome::Passed(format!("{} of {} files changed", changed.len(), made.files.len())))
}

/// The step: the generated files are those that [`write()`] would write. Changes nothing in the tree.
///
/// # Errors
/// As [`write()`], and when a file differs.
pub(crate) fn check(workspace: &Workspace) -> Result<Outcome> {
    let tools = Tools::provide(workspace)?;
    judge(&tools)?;
    let made = make(&tools)?;
    let changed = differences(&tools.root, &made)?;
    if !changed.is_empty() {
        bail!("not as generated: {}; run `cargo xtask generate`", changed.join(", "));
    }
    Ok(Outcome::Passed(format!("{} files as generated; lint and compatibility hold", made.files.len())))
}

/// Stores the current definition as the released one.
///
/// # Errors
/// When a tool cannot be installed or the definition cannot be read.
pub(crate) fn release(workspace: &Workspace) -> Result<Outcome> {
    let tools = Tools::provide(workspace)?;
    tools.buf(&["build", "--path", "proto/tars", "--exclude-source-info", "-o", BASELINE]).run()?;
    Ok(Outcome::Passed(format!("{BASELINE} is the current definition")))
}

/// Lints the definition and compares it with the released one.
fn judge(tools: &Tools<'_>) -> Result<()> {
    tools.buf(&["lint"]).run().context("proto/ breaks a rule of buf.yaml")?;
    let current = tools.folder.join("current.binpb").to_string_lossy().into_owned();
    tools.buf(&["build", "--path", "proto/tars", "-o", &current]).run()?;
    tools
        .buf(&["breaking", &current, "--against", BASELINE, "--config", "buf.yaml", "--exclude-imports"])
        .run()
        .context("proto/ is not compatible with the released definition")
}

/// The generated files.
struct Made {
    /// The folder, laid out as the tree.
    folder: PathBuf,
    /// The paths, relative to it, with `/`.
    files: BTreeSet<String>,
}

/// Generates all files and their list.
fn make(tools: &Tools<'_>) -> Result<Made> {
    let folder = tools.folder.join("made");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(folder.join("sdk"))?;
    let target = folder.to_string_lossy().into_owned();
    for template in TEMPLATES {
        tools.buf(&["generate", "--template", template, "-o", &target]).run()?;
    }
    stubs::document(&tools.root, &folder)?;
    let messages = folder.join(GO_MESSAGES);
    let generated = fs::read_to_string(&messages).with_context(|| format!("cannot read {GO_MESSAGES}"))?;
    fs::write(&messages, with_redacted_text(&generated)?)?;
    let mut files = BTreeSet::new();
    collect(&folder, "", &mut files)?;
    fs::write(folder.join(MANIFEST), manifest(&files))?;
    files.insert(MANIFEST.to_owned());
    Ok(Made { folder, files })
}

/// Makes `String` of Go's messages omit values: `text.go` in the same folder has `redacted`. The plugin has no option for
/// it, and Go has no way to replace a method.
fn with_redacted_text(generated: &str) -> Result<String> {
    const TEXT: &str = "return protoimpl.X.MessageStringOf(x)";
    let messages = generated.matches(" String() string {").count();
    ensure!(
        messages > 0 && generated.matches(TEXT).count() == messages,
        "String of Go's messages is not as expected: adapt xtask/src/generate.rs"
    );
    Ok(generated.replace(TEXT, "return redacted(x)"))
}

/// Adds the files beneath `prefix` in `root`.
fn collect(root: &Path, prefix: &str, files: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(root.join(prefix))? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().context("a generated name is not UTF-8")?;
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if entry.file_type()?.is_dir() {
            collect(root, &path, files)?;
        } else {
            files.insert(path);
        }
    }
    Ok(())
}

fn manifest(files: &BTreeSet<String>) -> String {
    files.iter().fold(MANIFEST_HEAD.to_owned(), |text, path| text + path + "\n")
}

/// The paths in the tree that differ from the generated files, are missing, or are listed and no longer generated.
fn differences(root: &Path, made: &Made) -> Result<Vec<String>> {
    let listed = fs::read_to_string(root.join(MANIFEST)).unwrap_or_default();
    let stale = listed
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter(|path| !made.files.contains(*path) && root.join(path).exists())
        .map(str::to_owned);
    let mut changed: Vec<_> = stale.collect();
    for path in &made.files {
        let fresh = fs::read(made.folder.join(path)).with_context(|| format!("cannot read {path}"))?;
        if fs::read(root.join(path)).ok() != Some(fresh) {
            changed.push(path.clone());
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that is removed after the test.
    struct TestTree(PathBuf);

    impl TestTree {
        fn with(name: &str, files: &[(&str, &str)]) -> Self {
            let folder = std::env::temp_dir().join(format!("xtask-generate-{}-{name}", std::process::id()));
            for (path, content) in files {
                let path = folder.join(path);
                fs::create_dir_all(path.parent().expect("a folder")).expect("made");
                fs::write(path, content).expect("written");
            }
            Self(folder)
        }
    }

    impl Drop for TestTree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn made(folder: &TestTree) -> Made {
        let mut files = BTreeSet::new();
        collect(&folder.0, "", &mut files).expect("read");
        Made { folder: folder.0.clone(), files }
    }

    #[test]
    fn a_tree_as_it_was_made_has_no_differences() {
        let fresh = TestTree::with("same-a", &[("sdk/go/a.go", "a"), (MANIFEST, "# x\nsdk/go/a.go\n")]);
        let tree = TestTree::with(
            "same-b",
            &[("sdk/go/a.go", "a"), (MANIFEST, "# x\nsdk/go/a.go\n"), ("b", "by hand")],
        );
        assert_eq!(differences(&tree.0, &made(&fresh)).expect("compared"), Vec::<String>::new());
    }

    #[test]
    fn an_edited_missing_or_stale_file_is_a_difference() {
        let fresh = TestTree::with("new", &[("sdk/edited", "a"), ("sdk/missing", "b"), (MANIFEST, "new")]);
        let tree = TestTree::with(
            "old",
            &[("sdk/edited", "A"), ("sdk/stale", "c"), (MANIFEST, "sdk/stale\nsdk/removed\n")],
        );
        let found = differences(&tree.0, &made(&fresh)).expect("compared");
        assert_eq!(found, ["sdk/stale", "sdk/edited", MANIFEST, "sdk/missing"]);
    }

    #[test]
    fn every_generated_file_is_marked_as_such_for_git() {
        let workspace = Workspace::find().expect("a workspace");
        let listed = fs::read_to_string(workspace.path(MANIFEST)).expect("the list");
        let paths: Vec<&str> = listed.lines().filter(|line| !line.starts_with('#')).collect();
        let ask = [&["check-attr", "linguist-generated", "--"], paths.as_slice()].concat();
        let marks =
            String::from_utf8(workspace.program("git", &ask).output().expect("git runs")).expect("UTF-8");
        assert_eq!(marks.lines().count(), paths.len());
        for mark in marks.lines() {
            assert!(mark.ends_with(": linguist-generated: set"), "{mark}; see .gitattributes");
        }
    }

    #[test]
    fn the_text_of_every_go_message_is_redacted() {
        let text = |body: &str| format!("func (x *A) String() string {{\n\t{body}\n}}\n");
        let redacted = with_redacted_text(&text("return protoimpl.X.MessageStringOf(x)")).expect("replaced");
        assert_eq!(redacted, text("return redacted(x)"));
        assert!(with_redacted_text(&text("return other(x)")).is_err());
        assert!(with_redacted_text("").is_err());
    }

    #[test]
    fn the_list_is_sorted_and_does_not_name_itself() {
        let files = ["sdk/b", "sdk/a"].map(str::to_owned).into();
        assert_eq!(manifest(&files), format!("{MANIFEST_HEAD}sdk/a\nsdk/b\n"));
    }
}

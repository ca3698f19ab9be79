//! Documents the type stubs of the Python messages: protoc's generator leaves the comments of the definition out.
//!
//! The comment before a message or a field in `proto/` becomes the docstring of its class or attribute in the `.pyi` file. The
//! definition has one declaration a line, which `buf lint` and `buf format` keep.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The definition and its stubs, from the workspace's root and from the folder of generated files.
const FILES: (&str, &str) = ("proto/tars/secret/v1/secret.proto", "sdk/python/tars/secret/v1/secret_pb2.pyi");

/// Rewrites the generated stubs in `made`.
///
/// # Errors
/// When a file cannot be read or written, or a field has no comment.
pub(super) fn document(root: &Path, made: &Path) -> Result<()> {
    let definition =
        fs::read_to_string(root.join(FILES.0)).with_context(|| format!("cannot read {}", FILES.0))?;
    let stubs = made.join(FILES.1);
    let text = fs::read_to_string(&stubs).with_context(|| format!("{} was not generated", FILES.1))?;
    let (documented, unused) = with_docstrings(&text, comments(&definition));
    ensure!(unused.is_empty(), "{} has no place for the comments of: {}", FILES.1, unused.join(", "));
    fs::write(&stubs, documented).with_context(|| format!("cannot write {}", FILES.1))
}

/// The comments of the messages, by `Message`, and of their fields, by `Message.field`.
fn comments(definition: &str) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    let (mut comment, mut message) = (Vec::new(), None);
    for line in definition.lines() {
        let code = line.trim();
        if let Some(text) = code.strip_prefix("//") {
            comment.push(text.strip_prefix(' ').unwrap_or(text).to_owned());
            continue;
        }
        if let Some(name) = line.strip_prefix("message ").and_then(|rest| rest.split(' ').next()) {
            message = Some(name.to_owned());
            found.insert(name.to_owned(), std::mem::take(&mut comment));
        } else if line == "}" {
            message = None;
        } else if let (Some(message), Some((declared, _))) = (&message, code.split_once(" = "))
            && let Some(field) = declared.rsplit(' ').next()
        {
            found.insert(format!("{message}.{field}"), std::mem::take(&mut comment));
        }
        comment.clear();
    }
    found
}

/// The stubs with docstrings, and the names of the comments that belong to nothing in them.
fn with_docstrings(stubs: &str, mut comments: BTreeMap<String, Vec<String>>) -> (String, Vec<String>) {
    let mut text = String::with_capacity(2 * stubs.len());
    let mut class = String::new();
    for line in stubs.lines() {
        text.push_str(line);
        text.push('\n');
        let name = if let Some(rest) = line.strip_prefix("class ") {
            rest.split('(').next().unwrap_or_default().clone_into(&mut class);
            class.clone()
        } else {
            let attribute = line.strip_prefix("    ").and_then(|rest| rest.split_once(": "));
            attribute.map_or_else(String::new, |(attribute, _)| format!("{class}.{attribute}"))
        };
        if let Some(comment) = comments.remove(&name).filter(|comment| !comment.is_empty()) {
            let comment = comment.join("\n    ").replace("\n    \n", "\n\n").replace('\\', "\\\\");
            text.push_str(&format!("    \"\"\"{comment}\"\"\"\n"));
        }
    }
    (text, comments.into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFINITION: &str = "\
// The file.

// A thing.
message Thing {
  // Names it.
  //
  // Any text.
  string name = 1 [debug_redact = true];

  map<string, string> tags = 2;
}
";

    #[test]
    fn comments_become_docstrings_of_classes_and_attributes() {
        let stubs =
            "class Thing(M):\n    class TagsEntry(M):\n        name: str\n    name: str\n    tags: Map\n";
        let (text, unused) = with_docstrings(stubs, comments(DEFINITION));
        assert_eq!(
            text,
            "class Thing(M):\n    \"\"\"A thing.\"\"\"\n    class TagsEntry(M):\n        name: str\n    name: str\n    \
             \"\"\"Names it.\n\n    Any text.\"\"\"\n    tags: Map\n"
        );
        assert!(unused.is_empty());
    }

    #[test]
    fn a_comment_without_a_place_is_reported() {
        assert_eq!(
            with_docstrings("class Thing(M):\n", comments(DEFINITION)).1,
            ["Thing.name", "Thing.tags"]
        );
    }
}

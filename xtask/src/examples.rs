//! Runs the documented examples as a new user does: from the tarballs that a running server serves, in new folders outside
//! this project.
//!
//! It runs the first example of the Download SDK page by the page's commands, and the program of each RPC in `sdk/examples`:
//! unchanged, and with an empty request.

mod programs;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use self::programs::LANGUAGES;
use crate::languages::{built_server, need, with_server};
use crate::process::Workspace;
use crate::step::Outcome;

/// The programs that run the examples, and what to install if one is missing.
const PROGRAMS: [(&str, &str); 6] = [
    ("go", "Go 1.24 or later"),
    ("python3", "Python 3.10 or later, with venv"),
    ("node", "Node 20.16 or later"),
    ("npx", "npm with npx"),
    ("curl", "curl"),
    ("tar", "tar"),
];

/// The step: starts a server and runs `cargo xtask examples` beside it.
///
/// # Errors
/// When a toolchain is missing or the output of an example is wrong.
pub(crate) fn check(workspace: &Workspace) -> Result<Outcome> {
    need_all()?;
    let server = built_server(workspace)?;
    let this = std::env::current_exe().context("this program has no path")?;
    let this = this.to_str().context("the path of this program is not UTF-8")?;
    with_server(workspace, &[this, "examples"]).env("AGENTROUTER_SERVER", &server).run()?;
    Ok(Outcome::Passed(
        "the page's example and 7 RPCs in 3 languages, with and without fields, from downloaded tarballs"
            .into(),
    ))
}

/// Runs the examples against the server of the environment.
///
/// # Errors
/// As [`check`], and when the environment has no server or key.
pub(crate) fn run(workspace: &Workspace) -> Result<Outcome> {
    need_all()?;
    let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let url = given("AGENTROUTER_BASE_URL").context("AGENTROUTER_BASE_URL is not set")?;
    let key = given("AGENTROUTER_API_KEY").or_else(|| given("AGENTROUTER_KEY_ADMIN"));
    let key = key.context("neither AGENTROUTER_API_KEY nor AGENTROUTER_KEY_ADMIN is set")?;
    let server = RunningServer { workspace, url: url.trim_end_matches('/').to_owned(), key };
    let page = String::from_utf8(server.fetched("/sdk")?)?;
    for (number, language) in LANGUAGES.iter().enumerate() {
        server
            .first_example(&page, language, number + 1)
            .with_context(|| format!("{}, the page's example", language.name))?;
        server.programs(&page, language).with_context(|| language.name)?;
    }
    Ok(Outcome::Passed("every example has the documented output".to_owned()))
}

fn need_all() -> Result<()> {
    PROGRAMS.iter().try_for_each(|(program, what)| need(program, what))
}

/// A language and its example programs.
pub(crate) struct Language {
    /// Its name in the page, in `sdk/examples` and in the tarball's name.
    name: &'static str,
    /// The file name of a program.
    file: &'static str,
    /// The bash script that installs the manifest's dependencies into the folder.
    install: &'static str,
    /// The bash script that checks all programs at once. Empty if the language has no such check.
    check: &'static str,
    /// The command that runs a program.
    run: &'static [&'static str],
    /// The texts before the RPC's name in a request, and at the request's end. An empty request omits the fields between.
    request: (&'static str, &'static str),
    /// Whether a program whose request is refused prints the reason and exits with 0.
    carries_on: bool,
    /// The output for each RPC of [`programs::CALLS`].
    prints: [&'static str; 7],
}

/// A running server, and a key of it.
struct RunningServer<'a> {
    workspace: &'a Workspace,
    url: String,
    key: String,
}

impl RunningServer<'_> {
    /// Runs all commands of the page. The example of each language writes a further version of the same secret.
    fn first_example(&self, page: &str, language: &Language, version: usize) -> Result<()> {
        let blocks = blocks(page, language.name)?;
        let [prepare, example, run] = blocks.as_slice() else { bail!("the page does not have three blocks") };
        let folder = Folder::fresh(self.workspace, language.name)?;
        fs::write(folder.path.join(language.file), format!("{example}\n"))?;
        let script = format!("set -eo pipefail\n{prepare}\n{run}\n");
        let (well, said) = self.within(&folder.path, "bash", &["-c", &script])?;
        ensure!(well && said.contains(&format!("openai-api-key version {version}\n")), "{said}");
        Ok(())
    }

    /// Installs the dependencies of the examples' manifest. Runs the program of each RPC, then all with an empty request.
    fn programs(&self, page: &str, language: &Language) -> Result<()> {
        let folder = Folder::fresh(self.workspace, language.name)?;
        let examples = self.workspace.path("sdk/examples").join(language.name);
        for entry in fs::read_dir(&examples)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::copy(entry.path(), folder.path.join(entry.file_name()))?;
            }
        }
        self.unpack(page, language, &folder.path)?;
        let program = |call: &str| -> Result<String> {
            let path = examples.join(call).join(language.file);
            fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
        };
        // The installation completes a manifest by the imports of a program.
        fs::write(folder.path.join(language.file), program(programs::CALLS[0])?)?;
        self.script(&folder.path, language.install)?;
        if !language.check.is_empty() {
            for call in programs::CALLS {
                fs::create_dir(folder.path.join(call))?;
                fs::write(folder.path.join(call).join(language.file), program(call)?)?;
            }
            self.script(&folder.path, language.check)?;
        }
        for (call, printed) in programs::CALLS.into_iter().zip(language.prints) {
            let said = self.ran(&folder.path, language, &program(call)?, true).with_context(|| call)?;
            ensure!(
                squeezed(&said).contains(printed),
                "{call}, with fields, does not print `{printed}`: {said}"
            );
        }
        for call in programs::CALLS {
            let lists = call == "list-secrets";
            let empty = emptied(&program(call)?, language.request)?;
            let said = self.ran(&folder.path, language, &empty, lists || language.carries_on);
            let said = said.with_context(|| format!("{call}, empty"))?;
            ensure!(lists != said.contains("name must be "), "{call}, empty: {said}");
        }
        println!(
            "{}: the page's example and {} RPCs, with and without fields",
            language.name,
            programs::CALLS.len()
        );
        Ok(())
    }

    /// Unpacks the tarball that the server serves, after it has checked its sum on the page.
    fn unpack(&self, page: &str, language: &Language, folder: &Path) -> Result<()> {
        let stem = format!("agentrouter-{}-{}", language.name, env!("CARGO_PKG_VERSION"));
        let tarball = self.fetched(&format!("/sdk/{stem}.tar.gz"))?;
        let sum: String = Sha256::digest(&tarball).iter().map(|byte| format!("{byte:02x}")).collect();
        ensure!(page.contains(&sum), "the page does not have the SHA-256 of {stem}.tar.gz");
        fs::create_dir(folder.join("third_party"))?;
        fs::write(folder.join("sdk.tar.gz"), tarball)?;
        self.script(folder, "tar -xzf sdk.tar.gz -C third_party && rm sdk.tar.gz")?;
        ensure!(folder.join("third_party").join(&stem).is_dir(), "{stem}.tar.gz unpacks into another folder");
        Ok(())
    }

    /// Runs a program and returns its output. Fails unless its success is `well`.
    fn ran(&self, folder: &Path, language: &Language, program: &str, well: bool) -> Result<String> {
        fs::write(folder.join(language.file), program)?;
        let [name, arguments @ ..] = language.run else { bail!("a command has a name") };
        let (ended_well, said) = self.within(folder, name, arguments)?;
        ensure!(ended_well == well, "it ended {}: {said}", if ended_well { "well" } else { "badly" });
        ensure!(!said.contains(key_secret(&self.key)), "the key was printed");
        Ok(said)
    }

    fn script(&self, folder: &Path, script: &str) -> Result<()> {
        let (well, said) = self.within(folder, "bash", &["-c", script])?;
        ensure!(well, "`{script}`: {said}");
        Ok(())
    }

    /// Runs a command with the variables that the examples read.
    fn within(&self, folder: &Path, program: &str, arguments: &[&str]) -> Result<(bool, String)> {
        let program = if program.starts_with('.') { folder.join(program) } else { PathBuf::from(program) };
        let command = self.workspace.program(&program, arguments).within(folder);
        let command = command.env("AGENTROUTER_BASE_URL", &self.url).env("AGENTROUTER_API_KEY", &self.key);
        // npx asks before it fetches a missing package, and Go searches the parent folders for a workspace.
        command.env("npm_config_yes", "true").env("GOWORK", "off").env("GOFLAGS", "").said()
    }

    fn fetched(&self, path: &str) -> Result<Vec<u8>> {
        self.workspace.program("curl", &["-fsS", &format!("{}{path}", self.url)]).output()
    }
}

/// A temporary folder.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn fresh(workspace: &Workspace, name: &str) -> Result<Self> {
        let made =
            workspace.program("mktemp", &["-d", "-t", &format!("agentrouter-{name}-XXXXXX")]).output()?;
        Ok(Self { path: PathBuf::from(String::from_utf8(made)?.trim()) })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that cannot be removed stays in the system's temporary directory.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The blocks of code in a section of the page.
fn blocks(page: &str, id: &str) -> Result<Vec<String>> {
    let (_, section) =
        page.split_once(&format!("<section id=\"{id}\"")).context("the page has no such section")?;
    let (section, _) = section.split_once("</section>").context("a section has an end")?;
    let pieces = section.split("<pre tabindex=\"0\"><code>").skip(1);
    let block = |piece: &str| {
        let (code, _) = piece.split_once("</code>").context("a block has an end")?;
        Ok(code.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    };
    pieces.map(block).collect()
}

/// A program with its request empty.
fn emptied(program: &str, (begin, end): (&str, &str)) -> Result<String> {
    let (before, rest) = program.split_once(begin).context("the program has no request")?;
    let (name, rest) = rest.split_once('\n').context("a request has fields")?;
    let (_, after) = rest.split_once(end).context("a request has an end")?;
    Ok(format!("{before}{begin}{name}{}{after}", end.trim()))
}

/// The text with each run of whitespace as one space. Go's protobuf prints one or two.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The secret part of a key.
fn key_secret(key: &str) -> &str {
    key.split_once('_').map_or(key, |(_, secret)| secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_emptied_in_every_program() {
        let examples = Workspace::find().expect("a workspace").path("sdk/examples");
        for language in &LANGUAGES {
            for call in programs::CALLS {
                let path = examples.join(language.name).join(call).join(language.file);
                let program = fs::read_to_string(path).expect("an example");
                let empty = emptied(&program, language.request).expect("a request");
                assert!(program.contains("openai-api-key") || call == "list-secrets");
                for content in ["openai-api-key", "llm-providers", "prod"] {
                    assert!(!empty.contains(content), "{call}: {empty}");
                }
            }
        }
    }

    #[test]
    fn blocks_are_read_as_a_browser_shows_them() {
        let page = "<section id=\"go\"><pre tabindex=\"0\"><code>a &amp;&amp; b</code></pre>x\
                    <pre tabindex=\"0\"><code>&lt;c&gt;</code></pre></section><section id=\"x\">";
        assert_eq!(blocks(page, "go").expect("blocks"), ["a && b", "<c>"]);
        assert!(blocks(page, "python").is_err());
    }
}

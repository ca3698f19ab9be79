//! Tests of the documentation: its tables agree with the code, and its links are not broken.

use std::path::{Path, PathBuf};

use agentrouter_api::error::http_status;
use agentrouter_model::Reason;

/// A list of every [`Reason`], which does not compile when one is missing.
macro_rules! every_reason {
    ($($reason:ident),* $(,)?) => {
        const REASONS: &[Reason] = &[$(Reason::$reason),*];
        const _: fn(Reason) = |reason| match reason { $(Reason::$reason => {})* };
    };
}

every_reason![
    InvalidRequest,
    MalformedBody,
    BodyTooLarge,
    UnsupportedMediaType,
    MethodNotAllowed,
    UnknownRoute,
    Unauthenticated,
    ScopeMissing,
    RealmNotAllowed,
    UserIdNotAllowed,
    SecretNotFound,
    VersionMismatch,
    VersionsExhausted,
    PageTokenInvalid,
    RateLimited,
    Overloaded,
    AuditUnavailable,
    StoreUnavailable,
    OutcomeUnknown,
    KekUnavailable,
    SecretCorrupt,
    ShuttingDown,
    DeadlineExceeded,
    Internal,
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The Markdown pages under `docs/`, and those at the root that link to them.
fn pages() -> Vec<PathBuf> {
    let files = |folder: PathBuf| {
        let entries = std::fs::read_dir(&folder).expect("a folder of the project");
        entries.map(|entry| entry.expect("an entry").path()).collect::<Vec<_>>()
    };
    let mut pages = [files(root()), files(root().join("docs"))].concat();
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages
}

/// The targets of `[text](target)` in Markdown as file and fragment, without those on other hosts. The file is empty for a
/// link within the page, and the fragment for a link to a whole page.
fn links(markdown: &str) -> Vec<(&str, &str)> {
    let targets = markdown.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets
        .map(|(target, _)| target)
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .map(|target| target.split_once('#').unwrap_or((target, "")))
        .collect()
}

/// The fragment by which the headings of a page are linked: lower case, spaces as hyphens, other punctuation left out.
fn fragments(markdown: &str) -> Vec<String> {
    // Every second part lies between fences, where a `#` begins a comment.
    let prose = markdown.split("\n```").step_by(2).flat_map(str::lines);
    let headings = prose.filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let fragment = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
    };
    headings.map(fragment).collect()
}

#[test]
fn the_page_of_errors_lists_exactly_the_reasons_there_are() {
    let page = read(&root().join("docs/errors.md"));
    let listed: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>())
        .map(|cells| cells[1..4].join(" "))
        .collect();
    let there_are: Vec<_> = REASONS
        .iter()
        .map(|&reason| {
            let (code, status) = (reason.code(), http_status(reason).as_u16());
            format!("`{reason}` {} ({}) {status}", code.as_str(), code.number())
        })
        .collect();
    assert_eq!(listed, there_are);
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    for page in pages() {
        let folder = page.parent().expect("a page lies in a folder");
        for (file, fragment) in links(&read(&page)) {
            let target = if file.is_empty() { page.clone() } else { folder.join(file) };
            assert!(target.exists(), "{} links to {file}", page.display());
            assert!(
                fragment.is_empty() || fragments(&read(&target)).iter().any(|found| found == fragment),
                "{} links to {file}#{fragment}",
                page.display()
            );
        }
    }
}

/// The files of this repository that a page names between backquotes, by their path from its root.
fn paths(markdown: &str) -> Vec<&str> {
    let roots = ["crates/", "proto/", "xtask/", "bench/", "deploy/", "sdk/"];
    let quoted = markdown.split('`').skip(1).step_by(2);
    quoted
        .filter(|quoted| roots.iter().any(|root| quoted.starts_with(root)))
        .filter(|path| !path.contains([' ', '*', '{', '\n']))
        .collect()
}

#[test]
fn every_file_that_a_page_names_is_there() {
    let mut checked = 0;
    for page in pages().iter().filter(|page| !page.ends_with("CHANGELOG.md")) {
        for path in paths(&read(page)) {
            assert!(root().join(path).exists(), "{} names {path}", page.display());
            checked += 1;
        }
    }
    assert!(checked >= 40, "only {checked} files are named");
}

#[test]
fn every_page_of_the_documentation_is_in_its_index() {
    let index = read(&root().join("docs/README.md"));
    let listed = links(&index);
    for page in pages().iter().filter(|page| page.parent().is_some_and(|folder| folder.ends_with("docs"))) {
        let name = page.file_name().and_then(|name| name.to_str()).expect("a name in ASCII");
        let is_listed = listed.iter().any(|(file, _)| *file == name);
        assert!(name == "README.md" || is_listed, "docs/README.md does not list {name}");
    }
}

#[test]
fn the_page_of_the_api_shows_each_call_in_an_order_that_works() {
    let page = read(&root().join("docs/api.md"));
    let routes = [
        r#"curl -X POST "${AGENTROUTER_BASE_URL}/v1/secrets" "#,
        r#"curl "${AGENTROUTER_BASE_URL}/v1/secrets/openai-api-key?realm=llm-keys""#,
        r#"curl -G "${AGENTROUTER_BASE_URL}/v1/secrets""#,
        "/v1/secrets/openai-api-key/rotate\"",
        "/v1/secrets/openai-api-key/validate\"",
        "/v1/secrets/openai-api-key/value\"",
        r#"curl -X DELETE "${AGENTROUTER_BASE_URL}/v1/secrets/openai-api-key?realm=llm-keys""#,
    ];
    let places: Vec<_> =
        routes.iter().map(|route| page.find(route).unwrap_or_else(|| panic!("no {route}"))).collect();
    assert!(places.is_sorted(), "{places:?}");
}

#[test]
fn the_console_fits_a_policy_that_allows_nothing_inline_and_nothing_from_elsewhere() {
    let assets = root().join("crates/server/assets");
    for name in ["console.html", "docs.html"] {
        let page = read(&assets.join(name));
        for forbidden in ["<style", " style=", "<script>", " onclick=", "src=\"http", "href=\"http"] {
            assert!(!page.contains(forbidden), "{name} has {forbidden}");
        }
    }
    for name in ["console.js", "docs.js"] {
        let script = read(&assets.join(name));
        for forbidden in [
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
            "localStorage",
            "sessionStorage",
            "cookie",
        ] {
            assert!(!script.contains(forbidden), "{name} has {forbidden}");
        }
    }
}

//! Conformance tests: third-party programs that test the real server against a specification.
//!
//! * schemathesis generates requests from `/openapi.json`, valid and invalid ones, and checks the responses against it.
//! * h2spec sends invalid HTTP/2, and checks the server's behaviour against RFC 9113 and RFC 7541.
//!
//! Both are pinned and installed into the target directory, by pip and by the Go command. The server is started beside
//! them and ends with them.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use crate::languages::{built_server, need, with_server};
use crate::process::Workspace;
use crate::step::Outcome;

const SCHEMATHESIS: &str = "schemathesis==4.32.5";
const H2SPEC: &str = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible";

/// The checks of a response: no fault of the server, and a documented status, content type, headers and body. Also: a
/// request without a key is rejected, and so is a method that is not listed.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,ignored_auth,\
                      unsupported_method,allow_header_conformance";

/// Generated requests for each operation in each phase: about a minute on two busy cores.
const REQUESTS: &str = "40";

/// Known differences from h2spec: the section, the number of the case, and the reason.
const DEVIATIONS: &[(&str, &str, &str)] = &[(
    "http2/3.5",
    "Sends invalid connection preface",
    "the port without TLS speaks HTTP/1.1 too: what does not begin with the preface gets 400 in HTTP/1.1, then the \
     connection is closed. RFC 9113, §3.4 allows to send no GOAWAY to a peer that may not speak HTTP/2",
)];

/// The step: the server behaves as `/openapi.json` documents it.
///
/// # Errors
/// When the tool cannot be installed, or a response differs from the documentation.
pub(crate) fn openapi(workspace: &Workspace) -> Result<Outcome> {
    let tool = schemathesis(workspace)?;
    let command = format!(
        "exec \"$0\" run \"$AGENTROUTER_BASE_URL/openapi.json\" \
         --header \"Authorization: Bearer ak-$AGENTROUTER_KEY_ADMIN\" --checks {CHECKS} \
         --phases examples,coverage,fuzzing,stateful --max-examples {REQUESTS} --seed 1 \
         --generation-database none --warnings off --no-color"
    );
    let arguments = ["bash", "-c", &command, &tool.to_string_lossy()];
    let mut cases = None;
    let folder = workspace.target()?.join("tools");
    let well = with_server(workspace, &arguments)
        .env("AGENTROUTER_SERVER", built_server(workspace)?)
        .within(&folder)
        .run_watched(|line| {
            cases = line
                .trim()
                .split_once(" generated, ")
                .map_or(cases.take(), |(count, _)| count.parse::<u32>().ok())
        })?;
    ensure!(well, "a response is not as `/openapi.json` says");
    let cases =
        cases.filter(|cases| *cases >= 100).context("schemathesis has made up no requests to speak of")?;
    Ok(Outcome::Passed(format!("{cases} requests, every response as documented")))
}

/// What h2spec requests. The body is larger than the initial window of a stream (65,535 bytes, RFC 9113, §6.9.2), so the
/// stream is still open when h2spec sends something invalid on it. A small response could be complete by then.
const PATH: &str = "/openapi.json";

/// The most runs. A case fails if it fails in each of them: h2spec and the server race in a few cases, because a server may
/// respond before it has read what follows the head (RFC 9113, §8.1).
const RUNS: usize = 5;

/// The step: HTTP/2 follows its specification, with TLS and without, except for the listed cases.
///
/// # Errors
/// When the tool cannot be installed, an unlisted case fails, or a listed one passes.
pub(crate) fn http2(workspace: &Workspace) -> Result<Outcome> {
    let tool = h2spec(workspace)?;
    let server = built_server(workspace)?;
    let report = workspace.target()?.join("tools/h2spec.xml");
    let mut seen = Vec::new();
    for tls in [false, true] {
        let flags = if tls { "--tls --insecure" } else { "" };
        let command = format!(
            "exec \"$0\" --strict --host 127.0.0.1 --port \"${{AGENTROUTER_BASE_URL##*:}}\" --path {PATH} --timeout 10 \
             --junit-report \"$1\" {flags}"
        );
        let arguments = ["bash", "-c", &command, &tool.to_string_lossy(), &report.to_string_lossy()];
        let arguments = [if tls { &["--tls"][..] } else { &[] }, &arguments].concat();
        let mut runs = Vec::new();
        let cases = loop {
            let _ = fs::remove_file(&report);
            // Its exit code is 1 when a case fails. The report names the case.
            let (_, said) = with_server(workspace, &arguments).env("AGENTROUTER_SERVER", &server).said()?;
            let text =
                fs::read_to_string(&report).with_context(|| format!("h2spec wrote no report: {said}"))?;
            let (cases, failures) = judge(&text)?;
            runs.push(failures);
            match expect(&in_every_run(&runs), tls) {
                Ok(()) => break cases,
                Err(_) if runs.len() < RUNS => {}
                Err(error) => {
                    println!("{said}");
                    return Err(error);
                }
            }
        };
        seen.push(format!("{cases} cases {}", if tls { "over TLS" } else { "in the clear" }));
    }
    Ok(Outcome::Passed(format!("{}; {} known deviation", seen.join(", "), DEVIATIONS.len())))
}

/// The number of cases in a JUnit report, and the failed ones: package and name.
fn judge(report: &str) -> Result<(usize, Vec<(String, String)>)> {
    let (mut cases, mut failures) = (0, Vec::new());
    for case in report.split("<testcase ").skip(1) {
        cases += 1;
        let attribute = |name: &str| {
            let value = case.split_once(&format!("{name}=\""))?.1.split_once('"')?.0;
            Some(value.replace("&#34;", "\"").replace("&quot;", "\""))
        };
        let body = case.split_once('>').map_or("", |(_, body)| body);
        let body = body.split_once("</testcase>").map_or("", |(body, _)| body);
        if body.contains("<failure") || body.contains("<error") {
            let package = attribute("package").context("a case has no package")?;
            failures.push((package, attribute("classname").context("a case has no name")?));
        }
    }
    ensure!(cases >= 140, "h2spec has run {cases} cases only");
    Ok((cases, failures))
}

/// The cases that failed in every run.
fn in_every_run(runs: &[Vec<(String, String)>]) -> Vec<(String, String)> {
    let (first, rest) =
        runs.split_first().map_or((&[][..], &[][..]), |(first, rest)| (first.as_slice(), rest));
    first.iter().filter(|case| rest.iter().all(|run| run.contains(case))).cloned().collect()
}

/// Checks that exactly the known cases failed. All of them are on the port without TLS.
fn expect(failures: &[(String, String)], tls: bool) -> Result<()> {
    let known: Vec<_> =
        DEVIATIONS.iter().filter(|_| !tls).map(|(package, name, _)| (*package, *name)).collect();
    let failed: Vec<_> = failures.iter().map(|(package, name)| (package.as_str(), name.as_str())).collect();
    if let Some((package, name)) = failed.iter().find(|failure| !known.contains(failure)) {
        bail!("h2spec {package}: \"{name}\" fails");
    }
    if let Some((package, name)) = known.iter().find(|deviation| !failed.contains(deviation)) {
        bail!("h2spec {package}: \"{name}\" passes now; take it out of the list of deviations");
    }
    Ok(())
}

/// The path of schemathesis, in a virtual environment of its own.
fn schemathesis(workspace: &Workspace) -> Result<PathBuf> {
    need("python3", "Python 3.10 or later, with venv")?;
    let environment = workspace.target()?.join("tools/schemathesis");
    let stamp = environment.join("installed");
    if fs::read_to_string(&stamp).unwrap_or_default() != SCHEMATHESIS {
        let path = environment.to_string_lossy().into_owned();
        workspace.program("python3", &["-m", "venv", "--clear", &path]).run()?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", SCHEMATHESIS];
        let python = environment.join("bin/python");
        workspace.program(python, &pip).run().context("schemathesis cannot be installed")?;
        fs::write(&stamp, SCHEMATHESIS)?;
    }
    Ok(environment.join("bin/schemathesis"))
}

/// The path of h2spec.
fn h2spec(workspace: &Workspace) -> Result<PathBuf> {
    need("go", "Go 1.24 or later")?;
    let folder = workspace.target()?.join("tools/h2spec");
    let stamp = folder.join("installed");
    if fs::read_to_string(&stamp).unwrap_or_default() != H2SPEC {
        workspace
            .program("go", &["install", H2SPEC])
            .env("GOBIN", &folder)
            .run()
            .context("h2spec cannot be installed")?;
        fs::write(&stamp, H2SPEC)?;
    }
    Ok(folder.join("h2spec"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(package: &str, name: &str) -> (String, String) {
        (package.to_owned(), name.to_owned())
    }

    #[test]
    fn a_report_names_the_failed_cases() {
        let passed = "<testcase package=\"a/1\" classname=\"good\" time=\"0\"></testcase>".repeat(140);
        let failed = "<testcase package=\"a/2\" classname=\"a &#34;bad&#34; one\" time=\"0\"><failure>why</failure></testcase>";
        let (cases, failures) = judge(&format!("{passed}{failed}")).expect("a report");
        assert_eq!((cases, failures), (141, vec![failure("a/2", "a \"bad\" one")]));
        assert!(judge(failed).is_err());
    }

    #[test]
    fn a_case_fails_if_it_fails_in_every_run() {
        let (always, once) = (failure("a", "always"), failure("b", "once"));
        let runs = [vec![once, always.clone()], vec![always.clone()]];
        assert_eq!(in_every_run(&runs), [always]);
        assert_eq!(in_every_run(&runs[..1]), runs[0]);
    }

    #[test]
    fn the_known_deviations_fail_and_nothing_else_does() {
        let known: Vec<_> = DEVIATIONS.iter().map(|(package, name, _)| failure(package, name)).collect();
        assert!(expect(&known, false).is_ok() && expect(&[], true).is_ok());
        assert!(expect(&[], false).is_err() && expect(&known, true).is_err());
        let more = [known, vec![failure("a", "b")]].concat();
        assert!(expect(&more, false).is_err());
    }
}

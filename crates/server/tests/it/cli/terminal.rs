//! `tare` on a terminal, which `script` (util-linux) gives it.

use std::io::{Read as _, Write as _};
use std::process::Stdio;

use super::Setup;
use crate::support::tare;

/// Runs `tare` on its own terminal and types `answer` as soon as the screen shows `question`. Returns the screen and the
/// exit status.
fn on_a_terminal(setup: &Setup, args: &str, question: &str, answer: &str) -> (String, Option<i32>) {
    line_on_a_terminal(setup, &format!("{} {args}", tare().display()), question, answer)
}

fn line_on_a_terminal(setup: &Setup, line: &str, question: &str, answer: &str) -> (String, Option<i32>) {
    let mut child = std::process::Command::new("script")
        .args(["--quiet", "--return", "--command", line, "/dev/null"])
        .env("AGENTROUTER_BASE_URL", &setup.server.process.url)
        .env("AGENTROUTER_API_KEY", &setup.server.key)
        .env_remove("AGENTROUTER_PROFILE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("script runs");
    let mut out = child.stdout.take().expect("piped");
    let mut typist = child.stdin.take();
    let (mut screen, mut piece) = (Vec::new(), [0; 1024]);
    loop {
        let count = out.read(&mut piece).expect("the screen");
        if count == 0 {
            break;
        }
        screen.extend_from_slice(&piece[..count]);
        if String::from_utf8_lossy(&screen).contains(question)
            && let Some(mut typist) = typist.take()
        {
            if question.contains("hidden") {
                await_hidden(child.id());
            }
            typist.write_all(answer.as_bytes()).expect("typed");
            std::mem::forget(typist);
        }
    }
    let code = child.wait().expect("it ends").code();
    (String::from_utf8_lossy(&screen).into_owned(), code)
}

/// Waits until the terminal that `script` gave its child does not echo. The prompt appears a moment before the echo is
/// off.
fn await_hidden(script: u32) {
    let terminal = || {
        let processes = std::fs::read_dir("/proc").expect("Linux").flatten().map(|entry| entry.path());
        let child = processes.into_iter().find(|process| {
            let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
            let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
            after_name.split(' ').nth(1) == Some(&script.to_string())
        })?;
        // The links below /proc of a process that cannot dump core are closed to others. Its terminal's number is not.
        let stat = std::fs::read_to_string(child.join("stat")).ok()?;
        let number: u32 = stat.rsplit_once(") ")?.1.split(' ').nth(4)?.parse().ok()?;
        Some(format!("/dev/pts/{}", (number & 0xff) | ((number >> 12) & 0xfff00)))
    };
    for _ in 0..3000 {
        if let Some(terminal) = terminal() {
            let state = std::process::Command::new("stty").arg("-a").arg("-F").arg(terminal).output();
            if String::from_utf8_lossy(&state.expect("stty runs").stdout).contains(" -echo ") {
                return;
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the terminal still shows what is typed");
}

#[test]
fn a_value_is_read_at_a_prompt_and_not_echoed() {
    let setup = Setup::new();
    let create = "api secret create typed --realm mcp";
    let (screen, code) = on_a_terminal(&setup, create, "Value of typed (hidden", "sk-hidden-7f3a\n");
    assert_eq!(code, Some(0), "{screen}");
    assert!(screen.contains("version"), "{screen}");
    assert!(!screen.contains("sk-hidden-7f3a"), "{screen}");
    assert_eq!(setup.secret(&["secret-value", "get", "typed"]).done(), "sk-hidden-7f3a");

    let rotate = "api secret rotate typed --realm mcp";
    let (screen, code) = on_a_terminal(&setup, rotate, "New value of typed (hidden)", "sk-hidden-2c4d\n");
    assert_eq!((code, screen.contains("sk-hidden")), (Some(0), false), "{screen}");
    assert_eq!(setup.secret(&["secret-value", "get", "typed"]).done(), "sk-hidden-2c4d");
}

#[test]
fn an_interrupt_at_a_question_leaves_the_terminal_as_it_was() {
    let setup = Setup::new();
    let tare = tare();
    let create = format!("{} api secret create n --realm mcp", tare.display());
    let line = format!("trap : INT; {create}; echo \"ended with $?\"; stty -a");
    let (screen, _) = line_on_a_terminal(&setup, &line, "Value of n (hidden", "\u{3}");
    assert!(screen.contains("ended with 130"), "{screen}");
    assert!(screen.contains(" echo ") && !screen.contains(" -echo "), "{screen}");
    assert_eq!(setup.secret(&["get", "n"]).code, Some(1), "nothing was stored");
}

#[test]
fn a_deletion_asks_for_confirmation() {
    let setup = Setup::new();
    setup.secret(&["create", "n", "--value", "v"]);
    let delete = "api secret delete n --realm mcp";
    for (answer, code) in [("n\n", 1), ("\n", 1), ("y\n", 0)] {
        let (screen, status) = on_a_terminal(&setup, delete, "with all its versions? [y/N]", answer);
        assert_eq!(status, Some(code), "{answer:?}: {screen}");
        let left = setup.secret(&["get", "n"]).code;
        assert_eq!(left, Some(if code == 0 { 1 } else { 0 }), "{answer:?}: {screen}");
    }
}

#[test]
fn an_import_asks_before_it_writes_another_value() {
    let setup = Setup::new();
    setup.secret(&["create", "A", "--value", "old"]);
    let (_dir, path) = super::file("a.env", "A=new\n");
    let import = format!("secret import {path} --realm mcp");
    for (answer, code, value) in [("\n", 1, "old"), ("r\n", 0, "new")] {
        let (screen, status) = on_a_terminal(&setup, &import, "[N]o:", answer);
        assert_eq!(status, Some(code), "{answer:?}: {screen}");
        assert_eq!(setup.secret(&["secret-value", "get", "A"]).done(), value);
    }
    let old = setup.secret(&["secret-value", "get", "A", "--version", "1"]).done();
    assert_eq!(old, "old", "a rotation leaves the old value readable");
}

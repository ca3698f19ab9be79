//! The visibility of the server to other processes.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use super::Serving;
use crate::support::{Server, binary, copy};

/// A user without rights: `nobody`, if this process is root and can become it.
const NOBODY: u32 = 65534;

#[test]
fn the_process_dumps_no_core_and_is_not_traceable() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().metadata().expect("its metadata").uid() == 0;
    let program = dir.path().join("server");
    // A copy that every user can read.
    copy(binary(), &program);
    let become_nobody = |command: &mut Command| {
        if root {
            std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).expect("given away");
            command.uid(NOBODY).gid(NOBODY);
        }
    };
    let mut serve = Command::new(&program);
    serve.arg("serve");
    become_nobody(&mut serve);
    let serving = Serving::start(&mut serve, &dir.path().join("data"));
    let file = |id: u32, name: &str| std::path::PathBuf::from(format!("/proc/{id}/{name}"));

    let limits = std::fs::read_to_string(file(serving.child.id(), "limits")).expect("its limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");

    // The kernel gives the files of a process that cannot be dumped to root, and those of another to its user.
    let mut sleep = Command::new("sleep");
    sleep.arg("60");
    become_nobody(&mut sleep);
    let mut other = sleep.spawn().expect("sleep runs");
    let owner = |id| file(id, "environ").metadata().expect("its metadata").uid();
    let (own, others) = (owner(serving.child.id()), owner(other.id()));
    other.kill().expect("it can be killed");
    other.wait().expect("it ends");
    assert_ne!(others, 0, "the comparison");
    assert_eq!(own, 0, "the server may be dumped");
}

#[test]
fn no_value_and_no_key_is_in_the_command_line_or_the_environment() {
    let server = Server::start();
    let body = r#"{"name":"n","realm":"mcp","value":"sk-canary-5b1f"}"#;
    assert_eq!(server.call("POST", "/v1/secrets", body).status, 200);
    for file in ["cmdline", "environ"] {
        let path = format!("/proc/{}/{file}", server.process.id());
        let bytes = std::fs::read(&path).expect("a process of ours");
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("sk-canary-5b1f") && !text.contains(&server.key), "{path}: {text}");
        assert!(file != "cmdline" || text.contains("--data-dir"), "it is the right process: {text}");
    }
}

#[test]
fn the_directory_of_another_user_is_not_reported_as_empty() {
    use std::os::unix::fs::PermissionsExt as _;
    let server = Server::start();
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().metadata().expect("its metadata").uid() == 0;
    let program = dir.path().join("server");
    // A copy that every user can read.
    copy(binary(), &program);
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("set");
    let outer = server.process.data_dir().parent().expect("a directory").to_owned();
    std::fs::set_permissions(&outer, std::fs::Permissions::from_mode(0o755)).expect("set");
    if !root {
        // Without root this process cannot become another user. A directory that it may not enter has the same effect.
        std::fs::set_permissions(server.process.data_dir(), std::fs::Permissions::from_mode(0o000))
            .expect("set");
    }
    for args in [&["doctor"][..], &["key", "list"]] {
        let mut command = Command::new(&program);
        command.args(args).arg("--data-dir").arg(server.process.data_dir());
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        let ran = super::CommandRun::of(command.output().expect("it runs"));
        let said = format!("{}{}", ran.out, ran.err);
        assert_eq!(ran.code, Some(1), "{args:?}: {said}");
        assert!(
            said.contains("Permission denied") && said.contains("run this as the user"),
            "{args:?}: {said}"
        );
        for untrue in ["there is no", "none has run", "none runs"] {
            assert!(!said.contains(untrue), "{args:?}: {said}");
        }
    }
    std::fs::set_permissions(server.process.data_dir(), std::fs::Permissions::from_mode(0o700)).expect("set");
}

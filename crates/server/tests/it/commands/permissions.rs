//! Owners and permissions that a container's user finds, as on a Kubernetes volume.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{Serving, bootstrap_key};
use crate::support::{binary, copy};

/// The user and group of the container, if this process is root and can become them.
const USER: u32 = 10001;
/// The group of the volume, `fsGroup`.
const GROUP: u32 = 2000;

/// A directory that every user can enter, with a copy of the binary.
struct Volume {
    dir: tempfile::TempDir,
    root: bool,
}

impl Volume {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().metadata().expect("its metadata").uid() == 0;
        set_mode(dir.path(), 0o755);
        copy(binary(), &dir.path().join("server"));
        Self { dir, root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn serve(&self) -> Command {
        let mut command = Command::new(self.path("server"));
        command.arg("serve");
        if self.root {
            command.uid(USER).gid(GROUP);
        }
        command
    }

    fn refused(&self, data: &Path, args: &[&str]) -> String {
        let mut command = self.serve();
        command.args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(data).args(args);
        let Output { status, stderr, .. } = command.output().expect("it runs");
        let text = String::from_utf8_lossy(&stderr).into_owned();
        assert_eq!(status.code(), Some(1), "{text}");
        text
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("its metadata").permissions().mode() & 0o7777
}

#[test]
fn a_volume_with_a_group_serves_from_a_directory_in_it_start_after_start() {
    let volume = Volume::new();
    let pvc = volume.path("pvc");
    std::fs::create_dir(&pvc).expect("made");
    if volume.root {
        chown(&pvc, Some(0), Some(GROUP)).expect("given");
    }
    set_mode(&pvc, 0o2775);
    if volume.root {
        std::fs::create_dir(pvc.join("lost+found")).expect("made");
        let text = volume.refused(&pvc, &[]);
        let advice = format!("--data-dir {}/data", pvc.display());
        assert!(text.contains("belongs to user 0") && text.contains(&advice), "{text}");
    }
    let data = pvc.join("data");
    Serving::start(&mut volume.serve(), &data).kill();
    let key = bootstrap_key(&data);

    // kubelet, at the next start of the pod.
    let files = "find \"$0\" -type d -exec chmod g+rwxs {} + ; find \"$0\" -type f -exec chmod g+rw {} +";
    let done = Command::new("sh").args(["-c", files]).arg(&data).status().expect("sh runs");
    assert!(done.success());
    assert_eq!((mode(&data), mode(&data.join("kek.json"))), (0o2770, 0o660));
    let again = Serving::start(&mut volume.serve(), &data);
    assert_eq!(again.list(&key), 200);
    for name in ["kek.json", "secrets.db", "bootstrap.env", "audit/audit.jsonl"] {
        assert_eq!(mode(&data.join(name)), 0o600, "{name}");
    }
    assert_eq!((mode(&data), mode(&data.join("audit"))), (0o700, 0o700));
    let log = std::fs::read_to_string(data.with_extension("err")).expect("its log");
    assert!(log.contains("other users had access to") && log.contains("kek.json"), "{log}");
}

#[test]
fn a_directory_and_a_kek_file_of_another_user_are_refused() {
    let volume = Volume::new();
    if !volume.root {
        // Without root no file can be given to another user. The rules on owners are the same code for both.
        return;
    }
    let data = volume.path("data");
    std::fs::create_dir(&data).expect("made");
    chown(&data, Some(USER), Some(GROUP)).expect("given");
    Serving::start(&mut volume.serve(), &data).kill();
    let kek = volume.path("kek.json");
    std::fs::copy(data.join("kek.json"), &kek).expect("copied");
    let args = ["--kek-file", kek.to_str().expect("UTF-8")];
    // A Secret volume: root's, readable by the group.
    chown(&kek, Some(0), Some(GROUP)).expect("given");
    set_mode(&kek, 0o440);
    Serving::start(volume.serve().args(args), &data).kill();
    chown(&kek, Some(USER + 1), Some(GROUP)).expect("given");
    let text = volume.refused(&data, &args);
    assert!(text.contains(&format!("belongs to user {}", USER + 1)) && text.contains("chown"), "{text}");

    // Files that root makes would be of no use to the server.
    let backup = volume.path("backup");
    super::run(&data, &["backup", backup.to_str().expect("UTF-8")]).refused(1);
    let restored = volume.path("restored");
    std::fs::create_dir(&restored).expect("made");
    chown(&restored, Some(USER), Some(GROUP)).expect("given");
    for (data, args) in [(&data, &["key", "list"][..]), (&restored, &["restore", "/nowhere"])] {
        let text = super::run(data, args).refused(1);
        assert!(
            text.contains("root makes") && text.contains(&format!("sudo -u '#{USER}'")),
            "{args:?}: {text}"
        );
    }

    let other = volume.path("other");
    std::fs::create_dir(&other).expect("made");
    chown(&other, Some(USER + 1), Some(GROUP)).expect("given");
    set_mode(&other, 0o770);
    let text = volume.refused(&other, &[]);
    assert!(text.contains(&format!("belongs to user {}", USER + 1)), "{text}");
    assert_eq!(std::fs::read_dir(&other).expect("a directory").count(), 0, "nothing is made there");
}

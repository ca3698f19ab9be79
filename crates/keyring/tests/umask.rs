//! The umask belongs to the whole process, so this test has a process of its own.

use std::os::unix::fs::PermissionsExt;

use agentrouter_crypto::SystemRng;
use agentrouter_keyring::Keyring;
use agentrouter_model::SystemClock;
use rustix::fs::Mode;

#[test]
fn the_file_has_mode_0600_under_any_umask() {
    let directory = tempfile::tempdir().expect("a directory");
    for umask in [0o000, 0o022, 0o077, 0o277, 0o777] {
        let path = directory.path().join(format!("{umask:o}.json"));
        let before = rustix::process::umask(Mode::from_raw_mode(umask));
        let made = Keyring::create(&path, &SystemClock, &SystemRng);
        let rotated = Keyring::rotate(&path, &SystemClock, &SystemRng);
        rustix::process::umask(before);

        assert_eq!((made.expect("made").ids().len(), rotated.expect("rotated").ids().len()), (1, 2));
        let mode = path.metadata().expect("the file").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "umask {umask:o}");
    }
}

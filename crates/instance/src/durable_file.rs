//! Small files of the data directory that are replaced atomically, and are on disk when the call returns.
//!
//! By `tempfile`, under a name that does not change: a crash leaves at most one `NAME.new`, which the next write removes.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use agentrouter_store::files::open_plainly;

/// The longest file that is read, in bytes.
const LONGEST: u64 = 64 * 1024;

/// Reads the file `name` in `dir`. The user of the service could put a link there, and root reads it too: a link is not
/// followed.
///
/// # Errors
/// When it cannot be read, is a link or not a regular file, or is no text.
pub fn read(dir: &Path, name: &str) -> io::Result<String> {
    let mut text = String::new();
    open_plainly(File::options().read(true), &dir.join(name))?.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// Replaces the file `name` in `dir` by one with this text, mode 0600.
///
/// # Errors
/// When it cannot be written. Then the old file is unchanged.
pub fn replace(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let temporary = format!("{name}.new");
    // A file that a crash left may have another mode.
    match fs::remove_file(dir.join(&temporary)) {
        Err(error) if dir.join(&temporary).is_dir() => {
            let text = format!("{temporary} is a directory, and must be removed");
            return Err(io::Error::new(error.kind(), text));
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = tempfile::Builder::new().prefix(&temporary).rand_bytes(0).tempfile_in(dir)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(dir.join(name))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_link_is_neither_read_nor_followed_when_it_is_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let other = dir.path().join("other");
        fs::write(&other, "kept").expect("written");
        for name in ["f", "f.new"] {
            std::os::unix::fs::symlink(&other, dir.path().join(name)).expect("linked");
        }
        assert!(read(dir.path(), "f").is_err());
        replace(dir.path(), "f", "text").expect("replaced");
        assert_eq!(read(dir.path(), "f").expect("read"), "text");
        assert_eq!(fs::read_to_string(&other).expect("read"), "kept");
    }

    #[test]
    fn a_directory_in_the_place_of_the_temporary_file_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("f.new")).expect("made");
        let error = replace(dir.path(), "f", "text").expect_err("in the way");
        assert_eq!(error.to_string(), "f.new is a directory, and must be removed");
    }

    #[test]
    fn a_file_is_replaced_and_one_that_a_crash_left_is_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let left = dir.path().join("f.new");
        fs::write(&left, "half").expect("written");
        fs::set_permissions(&left, fs::Permissions::from_mode(0o644)).expect("set");
        for text in ["one", "two"] {
            replace(dir.path(), "f", text).expect("replaced");
            let file = dir.path().join("f");
            assert_eq!(fs::read_to_string(&file).expect("read"), text);
            assert_eq!(file.metadata().expect("a mode").permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
    }
}

//! Small files that are replaced atomically, and are on disk when the call returns.
//!
//! By `tempfile`, under a name that does not change: a crash leaves at most one `NAME.new`, which the next write removes.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

/// Replaces the file `name` in `dir` by one with this text, mode 0600.
///
/// # Errors
/// When it cannot be written. Then the old file is unchanged.
pub fn replace(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let temporary = format!("{name}.new");
    // A file that a crash left may have another mode.
    match fs::remove_file(dir.join(&temporary)) {
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

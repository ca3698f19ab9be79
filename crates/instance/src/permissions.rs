//! Owners and permissions of the directories and files that hold secrets.
//!
//! Files of this user are restricted to it, because an orchestrator may have given access to a group: Kubernetes does so
//! for `fsGroup` at each start of a pod. The data directory and the KEK file are refused if they belong to another user. The
//! password file and the TLS key are only reported with a warning. Root may own all of them, because it can read and change
//! everything anyway.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::hint::Advised;

/// The permission of all users to write.
const OTHERS_WRITE: u32 = 0o002;
/// The permissions of all users.
const OTHERS: u32 = 0o007;
/// The permissions of the group and of all users, setuid, setgid and the sticky bit.
const NOT_THE_OWNERS: u32 = 0o7077;

/// Creates a directory that only its owner can enter, or restricts the existing one and the files in it.
///
/// # Errors
/// When it cannot be created, or it belongs to another user, or every user could change it.
pub fn make_directory(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    if !path.is_dir() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        return made.with_context(|| format!("the directory {shown} cannot be made"));
    }
    let cannot_read = || format!("the directory {shown} cannot be read");
    let metadata = std::fs::metadata(path).with_context(cannot_read)?;
    let own = own_user();
    if metadata.uid() != own {
        if own == 0 {
            let owner = metadata.uid();
            tracing::warn!(
                "the directory {shown} belongs to user {owner}, and this process runs as root; run it as that user"
            );
            return Ok(());
        }
        bail!(Advised::new(
            format!(
                "the directory {shown} belongs to user {}, and this process runs as user {own}",
                metadata.uid()
            ),
            format!("use a directory in it (--data-dir {shown}/data), or change its owner"),
        ));
    }
    // An empty directory gets the mode of a new one.
    let is_empty = std::fs::read_dir(path).with_context(cannot_read)?.next().is_none();
    if metadata.mode() & OTHERS_WRITE != 0 && !is_empty {
        bail!(Advised::new(
            format!("every user can change the directory {shown}"),
            format!("check what is in it, then run: chmod go-rwx '{shown}'"),
        ));
    }
    if let Some(before) = restrict(path)?
        && !is_empty
    {
        report(path, &before);
    }
    for entry in std::fs::read_dir(path).with_context(cannot_read)? {
        let path = entry.with_context(cannot_read)?.path();
        if let Some(before) = restrict(&path)? {
            report(&path, &before);
        }
    }
    Ok(())
}

fn report(path: &Path, before: &Metadata) {
    let mode = before.mode() & 0o7777;
    tracing::warn!("other users had access to {} (mode {mode:04o}); it was restricted", path.display());
}

/// Checks that files which a command makes in a directory belong to its owner: root can write to any.
///
/// # Errors
/// When this process is root, and another user owns the directory. That user could not use the files.
pub fn require_owner(path: &Path) -> anyhow::Result<()> {
    let owner = std::fs::metadata(path).map_or(0, |metadata| metadata.uid());
    if own_user() != 0 || owner == 0 {
        return Ok(());
    }
    bail!(Advised::new(
        format!(
            "the directory {} belongs to user {owner}, who could not use files that root makes",
            path.display()
        ),
        format!("run this as that user: sudo -u '#{owner}' agentrouter-secrets …"),
    ))
}

/// Takes the permissions of the group from a file or directory of this user, and from a directory those of all users.
/// Does nothing for any other kind of file, and for a file of another user. A file to which all users have access stays as
/// it is: its content may be known. Returns its metadata before the change, if it changed.
fn restrict(path: &Path) -> anyhow::Result<Option<Metadata>> {
    let failed = || format!("the permissions of {} cannot be restricted", path.display());
    let file = match open_itself(path) {
        // A command that ends removes its temporary files.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.with_context(failed)?,
    };
    let metadata = file.metadata().with_context(failed)?;
    if !is_restrictable(&metadata) {
        return Ok(None);
    }
    let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
    let closed = Permissions::from_mode(metadata.mode() & 0o700);
    std::fs::set_permissions(itself, closed).with_context(failed)?;
    Ok(Some(metadata))
}

fn is_restrictable(metadata: &Metadata) -> bool {
    let kind = metadata.file_type();
    let mode = metadata.mode();
    let is_open = mode & NOT_THE_OWNERS != 0;
    is_open && metadata.uid() == own_user() && (kind.is_dir() || (kind.is_file() && mode & OTHERS == 0))
}

/// A handle of a file or directory, and not of the target of a symbolic link. It cannot read. To close one that can would
/// release the locks that SQLite has on the file in this process.
fn open_itself(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::PATH;
    // The flags are small positive numbers.
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Checks that the KEK file is a file.
///
/// # Errors
/// When it is a pipe, for example. It can be read once, so neither a later command nor the next start could read it.
pub fn check_kek_file(path: &Path) -> anyhow::Result<()> {
    // A missing file is reported when it is read.
    let Ok(metadata) = std::fs::metadata(path) else { return Ok(()) };
    let what = match metadata.file_type() {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a pipe, which can be read only once",
        _ => "no regular file",
    };
    bail!(Advised::new(
        format!("the KEK file {} is {what}", path.display()),
        "name a regular file with --kek-file; to keep it off the disk, put it on a tmpfs such as /run"
    ))
}

/// Checks that no other user can replace the KEK file. Its mode is checked when it is read.
///
/// # Errors
/// When it is no file, or belongs to another user than this one and root.
pub fn check_kek_owner(path: &Path) -> anyhow::Result<()> {
    check_kek_file(path)?;
    let Ok(metadata) = std::fs::metadata(path) else { return Ok(()) };
    let (owner, own) = (metadata.uid(), own_user());
    if owner == own || owner == 0 {
        return Ok(());
    }
    let shown = path.display();
    if own == 0 {
        tracing::warn!("the KEK file {shown} belongs to user {owner}, who can replace it");
        return Ok(());
    }
    bail!(Advised::new(
        format!(
            "the KEK file {shown} belongs to user {owner}, who can replace it, and this process runs as user {own}"
        ),
        format!("run: chown {own} '{shown}'"),
    ))
}

/// Warns if other users can read or change a file with a secret. The group may read it, since orchestrators mount secrets
/// that way. `what` is the start of the sentence.
pub fn warn_if_exposed(what: &str, path: &Path) {
    // A missing file is reported when it is read. A pipe is no file that others could read later.
    let Ok(metadata) = std::fs::metadata(path) else { return };
    if !metadata.is_file() {
        return;
    }
    let (mode, owner, own) = (metadata.mode() & 0o7777, metadata.uid(), own_user());
    let shown = path.display();
    if mode & 0o026 != 0 {
        tracing::warn!(
            "{what} {shown} has mode {mode:04o}, which lets other users read or change it; run: chmod go-rwx {shown}"
        );
    } else if owner != own && owner != 0 {
        tracing::warn!(
            "{what} {shown} belongs to user {owner}, who can replace it; change its owner to {own}"
        );
    }
}

fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().expect("its metadata").mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("set");
    }

    #[test]
    fn what_the_owner_has_opened_to_its_group_is_restricted_again() {
        let outer = tempfile::tempdir().expect("a directory");
        let dir = outer.path().join("data");
        make_directory(&dir).expect("made");
        assert_eq!(mode(&dir), 0o700);
        let (file, below, target) = (dir.join("file"), dir.join("below"), outer.path().join("target"));
        std::fs::create_dir(&below).expect("made");
        for path in [&file, &target] {
            std::fs::write(path, "x").expect("written");
        }
        std::os::unix::fs::symlink(&target, dir.join("link")).expect("linked");
        // What kubelet does for fsGroup.
        set_mode(&dir, 0o2770);
        set_mode(&below, 0o2770);
        set_mode(&file, 0o660);
        set_mode(&target, 0o660);
        make_directory(&dir).expect("restricted");
        assert_eq!((mode(&dir), mode(&below), mode(&file)), (0o700, 0o700, 0o600));
        assert_eq!(mode(&target), 0o660, "the target of a link stays");
    }

    #[test]
    fn a_directory_that_every_user_can_change_is_refused_unless_it_is_empty() {
        let outer = tempfile::tempdir().expect("a directory");
        let dir = outer.path().join("data");
        std::fs::create_dir(&dir).expect("made");
        set_mode(&dir, 0o777);
        make_directory(&dir).expect("an empty one");
        assert_eq!(mode(&dir), 0o700);
        let file = dir.join("file");
        std::fs::write(&file, "x").expect("written");
        set_mode(&file, 0o644);
        set_mode(&dir, 0o777);
        let error = make_directory(&dir).expect_err("refused");
        assert!(error.to_string().contains("every user"), "{error}");
        assert!(crate::hint::of(&*error)[0].contains("chmod"), "{error:?}");
        set_mode(&dir, 0o755);
        make_directory(&dir).expect("a directory that others may only read");
        assert_eq!(
            (mode(&dir), mode(&file)),
            (0o700, 0o644),
            "a file that every user could read stays as it is"
        );
    }
}

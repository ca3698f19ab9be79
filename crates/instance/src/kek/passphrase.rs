//! Reads a passphrase: from a file, a file descriptor or the terminal. Never from an argument or a variable, which other
//! processes can read.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use zeroize::{Zeroize as _, Zeroizing};

use crate::Advised;
use crate::kek::Given;
use crate::permissions::warn_if_exposed;
use crate::settings::KekSettings;

/// The longest passphrase.
const MAX_BYTES: usize = 4096;
/// The shortest new passphrase.
const MIN_NEW: usize = 12;

/// Reads the passphrase that the settings name. A new one is asked for twice, and must be long.
pub(super) fn read(settings: &KekSettings, is_new: bool, given: Given) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let (file, descriptor) = (given.name("passphrase-file"), given.name("passphrase-fd"));
    let passphrase = match (&settings.passphrase_file, settings.passphrase_fd) {
        (Some(_), Some(_)) => {
            bail!(Advised::new(format!("{file} and {descriptor} are both set"), "set one of them"))
        }
        (Some(path), None) => {
            warn_if_exposed(&format!("the file of {file}"), path);
            read_file(path).with_context(|| format!("the passphrase in {} cannot be read", path.display()))?
        }
        (None, Some(fd)) => {
            // Opened by its path: a descriptor that is only a number has no owner.
            let path = PathBuf::from(format!("/dev/fd/{fd}"));
            read_file(&path).with_context(|| format!("the passphrase on descriptor {fd} cannot be read"))?
        }
        (None, None) => ask(is_new, &format!("set {file} or {descriptor}"))?,
    };
    ensure!(
        !passphrase.is_empty(),
        Advised::new("the passphrase is empty", "give one of 12 characters or more")
    );
    ensure!(
        !is_new || passphrase.len() >= MIN_NEW,
        Advised::new("the new passphrase is too short", "give one of 12 characters or more")
    );
    Ok(passphrase)
}

/// The file without the end of its last line.
fn read_file(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    // In its final size, so that no reallocation leaves an unwiped copy.
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 2));
    File::open(path)?.take(MAX_BYTES as u64 + 2).read_to_end(&mut text)?;
    if text.last() == Some(&b'\n') {
        text.pop();
        if text.last() == Some(&b'\r') {
            text.pop();
        }
    }
    ensure!(text.len() <= MAX_BYTES, "it is longer than {MAX_BYTES} bytes");
    Ok(text)
}

fn ask(is_new: bool, otherwise: &str) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    ensure!(
        io::stdin().is_terminal(),
        Advised::new("the KEKs need a passphrase, and there is no terminal to ask for it", otherwise)
    );
    let passphrase = prompt("Passphrase of the KEKs: ")?;
    if is_new {
        let again = prompt("Again: ")?;
        ensure!(*passphrase == *again, "the two passphrases differ");
    }
    Ok(passphrase)
}

/// Asks on the terminal without an echo. Ctrl-C is a character of the answer here, so that it leaves no terminal without an
/// echo: it is refused after the line.
fn prompt(question: &str) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
    terminal.write_all(question.as_bytes())?;
    let before = tcgetattr(&terminal)?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
    tcsetattr(&terminal, OptionalActions::Flush, &quiet)?;
    let line = read_line(&mut terminal);
    tcsetattr(&terminal, OptionalActions::Flush, &before)?;
    terminal.write_all(b"\n")?;
    let line = line?;
    ensure!(!line.contains(&3), "interrupted");
    Ok(line)
}

fn read_line(terminal: &mut File) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_BYTES));
    let mut byte = [0];
    while line.len() < MAX_BYTES && terminal.read(&mut byte)? == 1 && byte != *b"\n" {
        line.push(byte[0]);
        if byte == [3] {
            break;
        }
    }
    byte.zeroize();
    Ok(line)
}

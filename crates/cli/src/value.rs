//! Source of a secret's value: a file, standard input, a generator, a hidden prompt or, with a warning, the command line.
//!
//! A file made with `echo` ends in a line end that is no part of the key, so a value of one line loses its line end unless
//! it is asked to be kept. A value of several lines, such as a private key, stays as it is. Buffers are wiped.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::notice::warn;
use crate::{generate, terminal};

/// The most that is read: the server takes 65,536 bytes, and one line end may be removed.
const MOST: usize = 65_536 + 2;

/// What the command line says of the value.
pub(crate) struct Source<'a> {
    /// The flag for a value on the command line, for messages: `--value` or `--new-value`.
    pub(crate) flag: &'static str,
    /// The value on the command line.
    pub(crate) inline: Option<String>,
    /// The file; `-` is standard input.
    pub(crate) file: Option<&'a Path>,
    /// Whether the line end of a value of one line is part of it.
    pub(crate) keep_newline: bool,
    /// The length of the value to generate.
    pub(crate) generate: Option<u16>,
}

impl Source<'_> {
    /// The value that the command line gives or, if `question` is set, the terminal. None if there is neither.
    ///
    /// # Errors
    /// When it cannot be read, or standard input has data that no flag asks for.
    pub(crate) async fn read(self, question: Option<String>) -> Result<Option<Zeroizing<String>>, Failure> {
        let flag = self.flag;
        if let Some(length) = self.generate {
            return generate::value(length.into()).map(Some);
        }
        if let Some(value) = self.inline {
            warn(&format!(
                "{flag} stays in the shell's history and shows in the process list; prefer {flag}-file"
            ));
            return Ok(Some(Zeroizing::new(value)));
        }
        if let Some(path) = self.file {
            return read_value(path, self.keep_newline).map(Some);
        }
        if terminal::is_interactive() {
            return match question {
                Some(question) => terminal::prompt(question).await.map(Some),
                None => Ok(None),
            };
        }
        refuse_unread_input(flag)?;
        Ok(None)
    }
}

/// A value from a file; `-` is standard input.
pub(crate) fn read_value(path: &Path, keep_newline: bool) -> Result<Zeroizing<String>, Failure> {
    let mut value = read_text(path, MOST, "a value has at most 65536 bytes")?;
    if !keep_newline {
        let line = value.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
        if let Some(length) = line.filter(|line| !line.contains('\n')).map(str::len) {
            value.truncate(length);
        }
    }
    if value.is_empty() {
        return Err(Failure::usage(
            format!("{} has no value in it", shown(path)),
            "a value has 1 to 65536 bytes of UTF-8",
        ));
    }
    Ok(value)
}

/// Refuses data on standard input that no flag asks for: it is most likely the value. Waits for the end of a pipe.
fn refuse_unread_input(flag: &str) -> Result<(), Failure> {
    if io::stdin().is_terminal() {
        return Ok(());
    }
    let (read, waited_for) = mpsc::channel::<()>();
    thread::spawn(move || {
        if waited_for.recv_timeout(Duration::from_secs(3)) == Err(mpsc::RecvTimeoutError::Timeout) {
            warn("waiting for the end of standard input; add '</dev/null' if it has no data");
        }
    });
    // One byte, unbuffered. An input that cannot be read has no data.
    let count = rustix::io::read(io::stdin(), &mut [0; 1]).unwrap_or(0);
    drop(read);
    if count == 0 {
        return Ok(());
    }
    Err(Failure::usage(
        "standard input has data, and no flag says what it is",
        format!("add '{flag}-file -' to store it as the value, or '</dev/null' to run without it"),
    ))
}

/// The whole of a text file or, for `-`, of standard input. `limit` is the hint for one with more than `most` bytes.
pub(crate) fn read_text(path: &Path, most: usize, limit: &str) -> Result<Zeroizing<String>, Failure> {
    let failed = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "check the path; '-' is standard input",
            io::ErrorKind::PermissionDenied => "you may not read it; 'ls -l' shows who may",
            _ => "it must be a file with text in it; '-' is standard input",
        };
        Failure::usage(format!("cannot read {}: {error}", shown(path)), hint)
    };
    let bytes = if path == Path::new("-") {
        read_bounded(io::stdin().lock(), most)
    } else {
        File::open(path).and_then(|file| read_bounded(file, most))
    };
    let mut bytes = bytes.map_err(failed)?;
    if bytes.len() > most {
        return Err(Failure::usage(format!("{} is too large to be read", shown(path)), limit));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Failure::usage(format!("{} is UTF-16 text", shown(path)), "save it as UTF-8"));
    }
    String::from_utf8(std::mem::take(&mut *bytes)).map(Zeroizing::new).map_err(|error| {
        drop(Zeroizing::new(error.into_bytes()));
        Failure::usage(
            format!("{} is not UTF-8 text", shown(path)),
            "save text as UTF-8; encode binary values first, for example with base64",
        )
    })
}

/// Up to one byte more than `most`, into a buffer that never moves and so leaves no copy behind.
fn read_bounded(source: impl Read, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
    source.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn shown(path: &Path) -> String {
    if path == Path::new("-") { "standard input".into() } else { path.display().to_string() }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(content: &[u8], keep_newline: bool) -> Result<String, Failure> {
        let mut file = tempfile::NamedTempFile::new().expect("temporary file");
        file.write_all(content).expect("write");
        read_value(file.path(), keep_newline).map(|value| value.to_string())
    }

    #[test]
    fn a_value_of_one_line_loses_its_line_end_and_any_other_is_kept() {
        for (content, value) in [
            ("v", "v"),
            ("v\n", "v"),
            ("v\r\n", "v"),
            (" v \n", " v "),
            ("v\r", "v\r"),
            ("v\n\n", "v\n\n"),
            ("-----BEGIN\nx\n-----END\n", "-----BEGIN\nx\n-----END\n"),
            ("a\r\nb\r\n", "a\r\nb\r\n"),
        ] {
            assert_eq!(read(content.as_bytes(), false).expect("readable"), value, "{content:?}");
            assert_eq!(read(content.as_bytes(), true).expect("readable"), content, "{content:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_value_is_a_usage_error_that_does_not_repeat_it() {
        for content in [&b""[..], b"\n", b"canary\xff", b"\xff\xfec\0", &[b'x'; MOST + 1]] {
            let failure = read(content, false).expect_err("no value");
            assert_eq!(failure.exit_status(), 2);
            assert!(!format!("{failure:?}").contains("canary"));
        }
        assert_eq!(read(&[b'x'; MOST], false).expect("the server judges").len(), MOST);
    }

    #[test]
    fn a_file_that_does_not_exist_is_named() {
        let failure = read_value(Path::new("/nowhere"), false).expect_err("no file");
        assert!(failure.to_string().contains("/nowhere"));
    }
}

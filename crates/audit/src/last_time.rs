//! The time of the last record, from the end of the files: for a clock that was set back. Takes no lock.
//!
//! The record is not verified: [`crate::Audit::open`] checks the end of the log, and [`crate::Verification`] all of it.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;

use agentrouter_model::Timestamp;

use crate::chain::{Line, MAX_LINE_BYTES};
use crate::disk::{CURRENT, Form, content, open_to_read, retired_files};
use crate::scan::Lines;

/// The bytes at the end of a file that are searched first.
const WINDOW: u64 = 4 * MAX_LINE_BYTES as u64;

/// The time of the last record of the log in `dir`. None without a record.
///
/// # Errors
/// When a file cannot be read.
pub fn last_time(dir: &Path) -> io::Result<Option<Timestamp>> {
    match open_to_read(&dir.join(CURRENT)) {
        Ok(file) => {
            if let Some(time) = at_end(file)? {
                return Ok(Some(time));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let files = match retired_files(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        files => files?,
    };
    let Some(newest) = files.last() else { return Ok(None) };
    match newest.open(dir)? {
        (file, opened) if file.form == Form::Plain => at_end(opened),
        (file, opened) => among(content(file.form, opened)?),
    }
}

fn at_end(mut file: File) -> io::Result<Option<Timestamp>> {
    let bytes = file.metadata()?.len();
    if let Some(start) = bytes.checked_sub(WINDOW).filter(|start| *start > 0) {
        file.seek(SeekFrom::Start(start))?;
        let mut reader = BufReader::new(&file);
        // The window begins with the rest of a line.
        reader.skip_until(b'\n')?;
        if let Some(time) = among(reader)? {
            return Ok(Some(time));
        }
        file.seek(SeekFrom::Start(0))?;
    }
    among(&file)
}

/// The time of the last record.
fn among(reader: impl Read) -> io::Result<Option<Timestamp>> {
    let mut lines = Lines::new(reader);
    let mut last = Vec::new();
    while let Some(piece) = lines.next()? {
        if piece.record().is_some() {
            last.clear();
            last.extend_from_slice(&piece.bytes[..piece.bytes.len() - 1]);
        }
    }
    Ok(Line::parse(&last).and_then(|line| time_of(&line)).and_then(|text| Timestamp::parse(&text)))
}

/// The time of a record, as its text.
pub(crate) fn time_of(line: &Line<'_>) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct View {
        time: String,
    }
    serde_json::from_slice::<View>(&line.object()).ok().map(|view| view.time)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::chain::AuditHead;
    use crate::disk::retired_name;
    use crate::testing::key;

    fn log(times: impl IntoIterator<Item = i64>) -> Vec<u8> {
        let (mut out, mut head) = (Vec::new(), AuditHead::default());
        for micros in times {
            let members = format!(",\"time\":\"{}\",\"x\":\"y\"", Timestamp::from_micros(micros));
            head.seal(&key(1), members.as_bytes(), &mut out);
        }
        out
    }

    #[test]
    fn the_last_record_tells_the_time_wherever_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let time = || last_time(dir.path()).expect("read").map(Timestamp::as_micros);
        assert_eq!(last_time(&dir.path().join("none")).expect("read"), None);
        assert_eq!(time(), None);
        fs::write(dir.path().join(retired_name(1, Form::Plain)), log([1, 2])).expect("written");
        assert_eq!(time(), Some(2));
        let packed = zstd::encode_all(&log([3, 4])[..], 1).expect("compressed");
        fs::write(dir.path().join(retired_name(9, Form::Zstd)), packed).expect("written");
        assert_eq!(time(), Some(4));
        let current = dir.path().join(CURRENT);
        fs::write(&current, "").expect("written");
        assert_eq!(time(), Some(4), "a new file without a record");
        for torn in [vec![], b"{\"seq\":".to_vec(), b"no record\n".repeat(20_000)] {
            for records in [1, 900] {
                fs::write(&current, [log(0..records), torn.clone()].concat()).expect("written");
                assert_eq!(time(), Some(records - 1));
            }
        }
    }
}

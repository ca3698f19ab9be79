//! A minimal HTTP/1.1 parser of responses.

use anyhow::{Context, Result, bail};

use super::Verdict;

/// Parses a complete response at the start of `input`. Returns its verdict and its length in bytes.
///
/// # Errors
/// When it is not an HTTP/1.1 response, or has no `Content-Length`.
pub(super) fn read(input: &[u8]) -> Result<Option<(Verdict, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 48];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(input)? else { return Ok(None) };
    let status = response.code.context("a response has a status")?;
    let Some(length) =
        response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"))
    else {
        bail!("a response ({status}) without a length");
    };
    let length: usize = std::str::from_utf8(length.value)?.trim().parse()?;
    let end = head + length;
    Ok((input.len() >= end).then(|| (verdict(status), end)))
}

fn verdict(status: u16) -> Verdict {
    match status {
        200 => Verdict::Served,
        429 | 503 => Verdict::Shed,
        _ => Verdict::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\ncontent-length: 5\r\n\r\nhello";

    #[test]
    fn a_response_is_read_once_it_is_complete() {
        for end in 0..OK.len() {
            assert_eq!(read(&OK[..end]).expect("a beginning"), None, "{end} bytes");
        }
        assert_eq!(read(OK).expect("a response"), Some((Verdict::Served, OK.len())));
        let two = [OK, OK].concat();
        assert_eq!(read(&two).expect("the first of two"), Some((Verdict::Served, OK.len())));
    }

    #[test]
    fn the_status_decides() {
        let with = |status| format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
        for (status, verdict) in [
            (200, Verdict::Served),
            (429, Verdict::Shed),
            (503, Verdict::Shed),
            (404, Verdict::Failed),
            (500, Verdict::Failed),
        ] {
            assert_eq!(read(with(status).as_bytes()).expect("a response").expect("whole").0, verdict);
        }
    }

    #[test]
    fn an_invalid_response_or_one_without_a_length_is_an_error() {
        assert!(read(b"SSH-2.0-OpenSSH\r\n\r\n").is_err());
        assert!(read(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}

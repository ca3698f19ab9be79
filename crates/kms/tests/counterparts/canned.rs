//! A server with prepared responses, for what a counterpart does not do by itself.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

/// Serves on this machine until the process ends. `respond` gets the head and the body of a request, and returns the status
/// and the body of the response. Without one, the connection stays open in silence. Returns the address.
pub(crate) fn serve(respond: impl Fn(&str) -> Option<(u16, String)> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let respond = std::sync::Arc::new(respond);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let respond = std::sync::Arc::clone(&respond);
            std::thread::spawn(move || {
                let request = read(&mut stream);
                if let Some((status, body)) = respond(&request) {
                    let head = format!("HTTP/1.1 {status} Text\r\ncontent-length: {}\r\n", body.len());
                    let _ = write!(
                        stream,
                        "{head}content-type: application/x-amz-json-1.1\r\nconnection: close\r\n\r\n{body}"
                    );
                } else {
                    // Until the other side gives up.
                    let _ = stream.read(&mut [0]);
                }
            });
        }
    });
    address
}

/// Reads a request with its body.
fn read(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut part = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            if body.len() >= length.map_or(0, |length| length.trim().parse().expect("a number")) {
                return String::from_utf8_lossy(&request).into_owned();
            }
        }
        match stream.read(&mut part) {
            Ok(0) | Err(_) => return String::new(),
            Ok(read) => request.extend_from_slice(&part[..read]),
        }
    }
}

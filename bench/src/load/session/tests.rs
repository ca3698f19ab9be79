//! The loops against a scripted server.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::load::{Draw, Request};

/// Responds to each request after `delay(number)`, with `status(number)`. A status of 0 closes the connection.
fn server(delay: fn(u64) -> Duration, status: fn(u64) -> u16) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let count = Arc::new(AtomicU64::new(0));
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (mut socket, count) = (socket.expect("a connection"), Arc::clone(&count));
            std::thread::spawn(move || {
                let mut request = [0; 256];
                while socket.read(&mut request).is_ok_and(|read| read > 0) {
                    let number = count.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(delay(number));
                    let status = status(number);
                    if status == 0 {
                        return;
                    }
                    let response = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\nok");
                    if socket.write_all(response.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn session(address: SocketAddr, count: usize) -> Session {
    Session::open_to(&Endpoint { address, tls: None, wire: Wire::Http1 }, count).expect("connections")
}

fn source() -> Source {
    let head = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec();
    Source::set(vec![Request { head, body: Vec::new() }], Draw::InOrder)
}

#[test]
fn a_closed_loop_makes_the_given_number_of_requests_and_counts_their_results() {
    let statuses = |number| [200, 200, 429, 500, 0][usize::try_from(number % 5).expect("small")];
    let address = server(|_| Duration::ZERO, statuses);
    let tally = session(address, 4).closed(&mut source(), Until::Count(50)).expect("responses");
    assert_eq!((tally.served, tally.shed, tally.failed, tally.unsent), (20, 10, 20, 0));
}

#[test]
fn an_open_loop_counts_the_wait_of_requests_that_a_stall_kept_from_being_sent() {
    // One connection. The first response takes 300 ms, and the requests due meanwhile wait, each less than the one
    // before.
    let stall = |number| Duration::from_millis(if number == 0 { 300 } else { 0 });
    let address = server(stall, |_| 200);
    let pace = Pace { rate: 200.0, time: Duration::from_millis(400), patience: None };
    let tally = session(address, 1).open(&mut source(), pace).expect("responses");
    assert_eq!(tally.unsent, 0);
    assert!((50..120).contains(&tally.served), "{}", tally.served);
    // A closed loop would record one slow request and a fast median.
    assert!(tally.micros(50.0) > 50_000.0, "{}", tally.micros(50.0));
}

#[test]
fn callers_without_patience_are_counted_as_unsent() {
    let address = server(|_| Duration::from_millis(100), |_| 200);
    let patience = Some(Duration::from_millis(1));
    let pace = Pace { rate: 500.0, time: Duration::from_millis(500), patience };
    let tally = session(address, 2).open(&mut source(), pace).expect("responses");
    assert!((2..=12).contains(&tally.served), "{}", tally.served);
    assert!(tally.unsent > 100, "{}", tally.unsent);
}

#[test]
fn gaps_have_the_mean_that_the_rate_says() {
    let total: Duration = (0..10_000).map(|number| gap(number, 1000.0)).sum();
    assert!((9.5..10.5).contains(&total.as_secs_f64()), "{total:?}");
}

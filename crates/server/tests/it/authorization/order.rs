//! Authorization is decided before the body of a request is read.

use std::time::Duration;

use super::oracle::{INVALID_ARGUMENT, Key, PERMISSION_DENIED, ROWS, UNAUTHENTICATED};
use super::wire::{Client, Dialect, PreparedRequest, frame, methods};
use super::{ALL, Fixture, bearer};

/// A body that does not match its content type.
fn malformed(dialect: Dialect) -> Vec<u8> {
    match dialect {
        Dialect::Rest | Dialect::ConnectJson => b"{\"name\": \"n\", ".to_vec(),
        Dialect::ConnectProto => vec![0x0a, 0xff],
        Dialect::Grpc | Dialect::GrpcWeb => frame(&[0x0a, 0xff]),
    }
}

/// The code of a request whose announced body never arrives. The response must arrive before the body's time-out of ten
/// seconds.
async fn code_without_body(
    fixture: &Fixture,
    call: &PreparedRequest,
    authorization: &str,
    announced: u64,
) -> u8 {
    let call = call.withheld(announced);
    // The connection cannot be used again.
    let mut client = Client::of(&fixture.server);
    let response =
        tokio::time::timeout(Duration::from_secs(9), client.send(&call, Some(authorization))).await;
    response.unwrap_or_else(|_| panic!("the server waited for the body: {call:?}")).code
}

#[tokio::test]
async fn a_caller_without_permission_is_rejected_before_the_body_is_read() {
    let mut fixture = Fixture::open();
    let unknown = bearer("0123456789ABCDEF_0123456789012345678901234567890123456789012000000");
    let all = fixture.master("alice");
    for method in methods() {
        let row = ROWS.iter().find(|row| row.rpc == method.name()).expect("every call has a row");
        let lacking: Vec<&'static str> = ALL.into_iter().filter(|scope| *scope != row.scope).collect();
        let lacking = bearer(&fixture.issue(&Key::of("alice", &lacking)));
        for dialect in Dialect::ALL {
            let call = method.raw(dialect, malformed(dialect));
            for (authorization, code) in
                [(&unknown, UNAUTHENTICATED), (&lacking, PERMISSION_DENIED), (&all, INVALID_ARGUMENT)]
            {
                let reply = fixture.client.send(&call, Some(authorization)).await;
                assert_eq!(reply.code, code, "{} in {dialect:?}: {}", row.rpc, reply.whole);
            }
            for (authorization, code) in [(&unknown, UNAUTHENTICATED), (&lacking, PERMISSION_DENIED)] {
                for announced in [1000, 10 * 1024 * 1024] {
                    let received = code_without_body(&fixture, &call, authorization, announced).await;
                    assert_eq!(received, code, "{} in {dialect:?}, {announced} bytes", row.rpc);
                }
            }
        }
    }
}

//! A plugin in this process, called over its socket.

use std::collections::HashMap;
use std::time::Duration;

use agentrouter_kms_api::client::{Plugin, PluginError, Status, Wrapped};
use agentrouter_kms_api::server::serve;
use agentrouter_kms_api::wire::v2::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, KeyManagementService, StatusRequest,
    StatusResponse,
};
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult};
use tokio::net::UnixListener;
use tokio::sync::oneshot;

const DEADLINE: Duration = Duration::from_secs(30);

/// Inverts the bits. The first byte of a plaintext selects what is wrong with the response.
struct Inverting;

fn inverted(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| !byte).collect()
}

#[allow(refining_impl_trait, reason = "the response types are internal to this test")]
impl KeyManagementService for Inverting {
    async fn status(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, StatusRequest>,
    ) -> ServiceResult<StatusResponse> {
        Response::ok(StatusResponse { version: "v2".into(), healthz: "ok".into(), key_id: "one".into() })
    }

    async fn encrypt(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, EncryptRequest>,
    ) -> ServiceResult<EncryptResponse> {
        let request = request.to_owned_message();
        let good = EncryptResponse {
            ciphertext: inverted(&request.plaintext),
            key_id: "one".into(),
            annotations: HashMap::from([("uid.example.com".into(), request.uid.into_bytes())])
                .into_iter()
                .collect(),
        };
        Response::ok(match request.plaintext.first() {
            Some(b'd') => return Err(ConnectError::permission_denied("the key is disabled\n")),
            Some(b'f') => return Err(ConnectError::failed_precondition("the key is destroyed")),
            Some(b'u') => return Err(ConnectError::unavailable("no route to the KMS")),
            Some(b'e') => EncryptResponse { ciphertext: Vec::new(), ..good },
            Some(b'l') => EncryptResponse { ciphertext: vec![1; 1025], ..good },
            Some(b'k') => EncryptResponse { key_id: String::new(), ..good },
            Some(b'a') => EncryptResponse {
                annotations: [("a.example.com".to_owned(), vec![0; 32 * 1024])].into_iter().collect(),
                ..good
            },
            _ => good,
        })
    }

    async fn decrypt(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, DecryptRequest>,
    ) -> ServiceResult<DecryptResponse> {
        let request = request.to_owned_message();
        if request.key_id != "one" || request.annotations.is_empty() {
            return Err(ConnectError::invalid_argument("not mine"));
        }
        Response::ok(DecryptResponse { plaintext: inverted(&request.ciphertext) })
    }
}

#[tokio::test]
async fn a_key_is_wrapped_and_unwrapped_over_the_socket() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("kms.sock");
    let listener = UnixListener::bind(&socket).expect("bound");
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(serve(listener, Inverting, async move { drop(stopped.await) }));

    let plugin = Plugin::new(&socket, DEADLINE);
    let status = plugin.status().await.expect("a status");
    assert_eq!(status, Status { version: "v2".into(), healthz: "ok".into(), key_id: "one".into() });
    let wrapped = plugin.encrypt(b"the key", "1").await.expect("wrapped");
    let expected = Wrapped {
        ciphertext: inverted(b"the key"),
        key_id: "one".into(),
        annotations: [("uid.example.com".to_owned(), b"1".to_vec())].into(),
    };
    assert_eq!(wrapped, expected);
    assert_eq!(*plugin.decrypt(&wrapped, "2").await.expect("unwrapped"), b"the key");

    for (plaintext, said) in [(b"d", "the key is disabled"), (b"f", "the key is destroyed")] {
        match plugin.encrypt(plaintext, "3").await {
            Err(PluginError::Denied { what }) => assert_eq!(what, said),
            other => panic!("{other:?}"),
        }
    }
    match plugin.encrypt(b"u", "4").await {
        Err(PluginError::Unreachable { what }) => assert_eq!(what, "no route to the KMS"),
        other => panic!("{other:?}"),
    }
    for plaintext in [b"e", b"l", b"k", b"a"] {
        let refused = plugin.encrypt(plaintext, "5").await.expect_err("not a response");
        assert!(matches!(refused, PluginError::Malformed { .. }), "{refused:?}");
    }

    stop.send(()).expect("it serves");
    serving.await.expect("no panic");
    let gone = plugin.status().await.expect_err("nobody serves");
    assert!(matches!(gone, PluginError::Unreachable { .. }), "{gone:?}");

    // The same client reaches the plugin when it serves again.
    std::fs::remove_file(&socket).expect("removed");
    let listener = UnixListener::bind(&socket).expect("bound");
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(serve(listener, Inverting, async move { drop(stopped.await) }));
    plugin.status().await.expect("a status");
    stop.send(()).expect("it serves");
    serving.await.expect("no panic");
}

#[tokio::test]
async fn a_plugin_that_does_not_respond_is_unreachable_or_silent() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("kms.sock");
    let missing = Plugin::new(&socket, DEADLINE).status().await.expect_err("no socket");
    assert!(matches!(missing, PluginError::Unreachable { .. }), "{missing:?}");

    // The kernel accepts the connection, and nothing reads from it.
    let _listener = UnixListener::bind(&socket).expect("bound");
    let silent = Plugin::new(&socket, Duration::from_millis(50)).status().await.expect_err("silence");
    assert!(matches!(silent, PluginError::Silent), "{silent:?}");
}

#[tokio::test]
async fn a_file_is_no_socket() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("kms.sock");
    std::fs::write(&path, "").expect("written");
    let refused = Plugin::new(&path, DEADLINE).status().await.expect_err("no socket");
    assert!(
        matches!(&refused, PluginError::Untrusted { what } if what.ends_with("is not a socket")),
        "{refused:?}"
    );
}

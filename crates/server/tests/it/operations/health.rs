//! Probes, over HTTP and gRPC, and gRPC reflection.

use std::time::Duration;

use connectrpc::Protocol;
use connectrpc::client::{ClientConfig, HttpClient};
use connectrpc_health::HealthClient;
use connectrpc_health::wire::{HealthCheckRequest, ServingStatus};
use connectrpc_reflection::ServerReflectionClient;
use connectrpc_reflection::wire::v1::server_reflection_request::MessageRequest;
use connectrpc_reflection::wire::v1::server_reflection_response::MessageResponse;
use connectrpc_reflection::wire::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::support::{Server, within};

const SERVICE: &str = "agentrouter.secret.v1.SecretService";

fn config(server: &Server) -> ClientConfig {
    ClientConfig::new(server.process.url.parse().expect("a URL")).with_protocol(Protocol::Grpc)
}

async fn status(server: &Server, service: &str) -> ServingStatus {
    let client = HealthClient::new(HttpClient::plaintext_http2_only(), config(server));
    let request = HealthCheckRequest { service: service.to_owned(), ..Default::default() };
    let response = client.check(request).await.expect("a response").into_owned();
    response.status.as_known().expect("a status of the definition")
}

/// Repeats the request until the response is `wanted`, for a minute at most.
async fn eventually(server: &Server, wanted: ServingStatus) {
    for _ in 0..1200 {
        if status(server, SERVICE).await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("gRPC health did not become {wanted:?}");
}

#[tokio::test]
async fn a_ready_server_reports_itself_ready_on_every_probe() {
    let server = Server::start();
    for path in ["/livez", "/readyz"] {
        let reply = server.send("GET", path, &[], b"");
        assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"status":"ok"}"#), "{path}");
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(server.send("POST", path, &[], b"").status, 405, "{path}");
    }
    for service in ["", SERVICE] {
        assert_eq!(status(&server, service).await, ServingStatus::SERVING, "{service:?}");
    }
    let client = HealthClient::new(HttpClient::plaintext_http2_only(), config(&server));
    let request = HealthCheckRequest { service: "no.such.Service".to_owned(), ..Default::default() };
    let error = client.check(request).await.expect_err("no such service");
    assert_eq!(error.code, connectrpc::ErrorCode::NotFound, "{error:?}");
    assert!(!format!("{error:?}").contains("no.such"), "{error:?}");
    assert!(
        error.details.iter().any(|detail| detail.type_url.ends_with("google.rpc.ErrorInfo")),
        "{error:?}"
    );
    let request = HealthCheckRequest { service: "no.such.Service".to_owned(), ..Default::default() };
    let mut watch = client.watch(request).await.expect("a stream");
    let first = watch.message().await.expect("no error").expect("a status").to_owned_message();
    assert_eq!(first.status.as_known(), Some(ServingStatus::SERVICE_UNKNOWN));
    let next = tokio::time::timeout(Duration::from_millis(300), watch.message()).await;
    assert!(next.is_err(), "it stays open");
}

#[test]
fn an_unknown_procedure_is_not_repeated_in_the_response() {
    let server = Server::start();
    for path in ["/grpc.health.v1.Health/List", "/foo.Bar/Nope", "/agentrouter.secret.v1.SecretService/Nope"]
    {
        let reply = server.send("POST", path, &[("content-type", "application/grpc")], &[0; 5]);
        assert_eq!((reply.status, reply.header("grpc-status")), (200, Some("12")), "{path}: {reply:?}");
        assert_eq!(reply.header("x-agentrouter-reason"), Some("UNKNOWN_ROUTE"), "{path}: {reply:?}");
        assert!(!format!("{reply:?}").contains("method not found"), "{reply:?}");
        let rest = server.send("POST", path, &[("content-type", "application/json")], b"{}");
        let codes = (rest.status, rest.json()["code"].clone());
        let of_a_service = path.contains(".v1.");
        let expected = if of_a_service { (501, "unimplemented".into()) } else { (404, 12.into()) };
        assert_eq!(codes, expected, "{path}: {rest:?}");
    }
}

#[tokio::test]
async fn a_server_whose_database_was_moved_writes_nothing_until_it_is_back() {
    let server = Server::start();
    let (here, away) = (server.data("secrets.db"), server.data("away.db"));
    std::fs::rename(&here, &away).expect("moved");
    let create = r#"{"name":"n","realm":"mcp","value":"v"}"#;
    let refused = server.call("POST", "/v1/secrets", create);
    assert_eq!((refused.status, refused.reason().as_str()), (503, "STORE_UNAVAILABLE"), "{refused:?}");
    eventually(&server, ServingStatus::NOT_SERVING).await;
    let ready = server.send("GET", "/readyz", &[], b"");
    assert_eq!(
        (ready.status, ready.json()["reason"].as_str()),
        (503, Some("STORE_UNAVAILABLE")),
        "{ready:?}"
    );
    std::fs::rename(&away, &here).expect("moved back");
    eventually(&server, ServingStatus::SERVING).await;
    assert_eq!(server.call("POST", "/v1/secrets", create).status, 200);
}

#[test]
fn a_file_that_changes_beneath_the_server_is_named_and_nothing_is_lost() {
    for (file, truncated, detail) in [
        (
            "secrets.db-wal",
            false,
            "the database's log (-wal) was moved, removed or replaced; restart the server",
        ),
        ("secrets.db-wal", true, "the database's log (-wal) was truncated; restart the server"),
        (
            "secrets.db",
            false,
            "the database file was moved, removed or replaced; put it back or restart the server",
        ),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        let server = Server::on(&data);
        let create = |name: &str| {
            server.call("POST", "/v1/secrets", &format!(r#"{{"name":"{name}","realm":"mcp","value":"v"}}"#))
        };
        assert_eq!(create("a").status, 200);
        assert_eq!(server.send("GET", "/readyz", &[], b"").status, 200);
        // Cached from here on. A worker that reads from the store for the first time opens no file that has changed.
        let read = server.call("POST", "/v1/secrets/a/value", r#"{"realm":"mcp"}"#);
        assert_eq!(read.status, 200, "{file}: {read:?}");
        if truncated {
            std::fs::write(data.join(file), "").expect("truncated");
        } else {
            std::fs::remove_file(data.join(file)).expect("removed");
        }
        let is_named = || server.send("GET", "/readyz", &[], b"").json()["detail"] == detail;
        assert!(within(Duration::from_secs(30), is_named), "{file}: readiness");
        assert_eq!(create("b").reason(), "STORE_UNAVAILABLE", "{file}");
        let read = server.call("POST", "/v1/secrets/a/value", r#"{"realm":"mcp"}"#);
        assert_eq!(read.status, 200, "{file}: {read:?}");
        assert!(server.process.stop().success());
        let server = Server::on(&data);
        let read = server.call("POST", "/v1/secrets/a/value", r#"{"realm":"mcp"}"#);
        assert_eq!(read.json()["value"], "v", "{file}: {read:?}");
    }
}

#[tokio::test]
async fn a_server_that_cannot_audit_is_alive_and_not_ready_until_it_can() {
    let server = Server::start();
    let (audit, away) = (server.data("audit"), server.data("audit.away"));
    std::fs::rename(&audit, &away).expect("moved");
    // A file in place of the folder, so that no new log can be started either.
    std::fs::write(&audit, "").expect("written");
    let refused = server.call("GET", "/v1/secrets", "");
    assert_eq!((refused.status, refused.reason().as_str()), (503, "AUDIT_UNAVAILABLE"), "{refused:?}");
    let ready = server.send("GET", "/readyz", &[], b"");
    assert_eq!(
        (ready.status, ready.json()["reason"].as_str()),
        (503, Some("AUDIT_UNAVAILABLE")),
        "{ready:?}"
    );
    assert_eq!(server.send("GET", "/livez", &[], b"").status, 200);
    eventually(&server, ServingStatus::NOT_SERVING).await;

    std::fs::remove_file(&audit).expect("removed");
    std::fs::rename(&away, &audit).expect("moved back");
    eventually(&server, ServingStatus::SERVING).await;
    assert_eq!(server.send("GET", "/readyz", &[], b"").status, 200);
    assert_eq!(server.call("GET", "/v1/secrets", "").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_health_and_reflection_end_when_the_server_stops() {
    let server = Server::start_with(&["--shutdown-time", "120s"]);
    let health = HealthClient::new(HttpClient::plaintext_http2_only(), config(&server));
    let request = HealthCheckRequest { service: SERVICE.to_owned(), ..Default::default() };
    let mut watch = health.watch(request).await.expect("a stream");
    let mut statuses = Vec::new();
    let first = watch.message().await.expect("no error").expect("the present status");
    statuses.push(first.to_owned_message().status.as_known());
    let reflection = ServerReflectionClient::new(HttpClient::plaintext_http2_only(), config(&server));
    let mut talk = reflection.server_reflection_info().await.expect("a stream");
    let list = MessageRequest::ListServices(String::new());
    let list = ServerReflectionRequest { message_request: Some(list), ..Default::default() };
    talk.send(list).await.expect("sent");
    talk.message().await.expect("no error").expect("a response");

    let data = server.process.data_dir().to_owned();
    let stopping = tokio::task::spawn_blocking(move || server.process.stop().code());
    // Half of the shutdown's time limit. If the shutdown waited for the streams, it would take all of it.
    let stopped = tokio::time::timeout(Duration::from_secs(60), stopping).await;
    assert_eq!(stopped.expect("it does not wait for the streams").expect("no panic"), Some(0));
    while let Some(message) = watch.message().await.expect("it ends in order") {
        statuses.push(message.to_owned_message().status.as_known());
    }
    assert_eq!(statuses, [Some(ServingStatus::SERVING), Some(ServingStatus::NOT_SERVING)]);
    assert!(talk.message().await.expect("it ends in order").is_none());
    let log = std::fs::read_to_string(agentrouter_testkit::ServerProcess::log_of(&data)).expect("the log");
    assert!(!log.contains("did not finish"), "{log}");
}

#[tokio::test]
async fn reflection_lists_the_services_and_shows_their_definition() {
    let server = Server::start();
    let client = ServerReflectionClient::new(HttpClient::plaintext_http2_only(), config(&server));
    let mut stream = client.server_reflection_info().await.expect("a stream");
    let mut ask = async |what: MessageRequest| {
        let request = ServerReflectionRequest { message_request: Some(what), ..Default::default() };
        stream.send(request).await.expect("sent");
        let response = stream.message().await.expect("no error").expect("a response");
        let response: ServerReflectionResponse = response.to_owned_message();
        response.message_response.expect("a response with a message")
    };
    let MessageResponse::ListServicesResponse(list) = ask(MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list");
    };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert!(names.iter().any(|name| name == SERVICE), "{names:?}");
    assert!(names.iter().any(|name| name == "grpc.health.v1.Health"), "{names:?}");
    let symbol = MessageRequest::FileContainingSymbol(SERVICE.to_owned());
    let MessageResponse::FileDescriptorResponse(files) = ask(symbol).await else { panic!("no definition") };
    let ours = files.file_descriptor_proto.iter().any(|file| {
        let text = String::from_utf8_lossy(file);
        text.contains("tars/secret/v1/secret.proto") && text.contains("GetSecretValue")
    });
    assert!(ours, "the definition has the service's file");
}

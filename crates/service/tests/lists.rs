//! Tests of lists whose callers disconnect.

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use agentrouter_model::rpc::{CreateSecret, ListSecrets};
use agentrouter_service::run_to_completion;
use agentrouter_testkit::TestService;

#[tokio::test]
async fn a_list_whose_caller_disconnects_is_cancelled_and_recorded() {
    let test = TestService::start().await;
    let ctx = test.call_by("ann", "secrets/read,secrets/write").await;
    let tags: Vec<String> = (0..64).map(|number| format!("tag-{number}")).collect();
    let tags: Vec<(&str, &str)> = tags.iter().map(|key| (key.as_str(), "v")).collect();
    // A walk over so many look-ups leaves the caller's thread.
    for number in 0..50 {
        let name = format!("secret-{number}");
        let create = CreateSecret { name: &name, value: "v", tags: tags.clone(), ..CreateSecret::default() };
        test.service.create(Arc::clone(&ctx), create).await.expect("created");
    }
    let service = Arc::clone(&test.service);
    let wanted: Vec<(String, String)> =
        tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let mut list = Box::pin(run_to_completion(async move {
        let tags = wanted.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        service.list(&ctx, ListSecrets { status: "retired", tags, ..ListSecrets::default() }).await
    }));
    assert!(pin!(&mut list).poll(&mut Context::from_waker(Waker::noop())).is_pending(), "it waits");
    drop(list);

    let path = test.dir.path().join("audit.jsonl");
    let recorded = async {
        loop {
            let log = std::fs::read_to_string(&path).expect("the log");
            let mut lists = log.lines().filter(|line| line.contains("\"ListSecrets\""));
            match lists.next() {
                Some(line) => break assert!(line.contains("\"DEADLINE_EXCEEDED\""), "{line}"),
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), recorded).await.expect("it ends without its caller");
}

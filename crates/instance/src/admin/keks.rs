//! Execution of the commands on KEKs.

use std::sync::Arc;
use std::time::Duration;

use agentrouter_audit::Progress;
use agentrouter_model::{KekId, Timestamp};
use agentrouter_service::{Activated, KekError, Origin, RewrapOptions, Rewrapped, Rotated, Service};
use tokio::sync::watch;

use super::execute::{failed, refused};
use super::{ListedKek, Response, RotatedKek};
use crate::hint;

pub(super) async fn list(service: &Service, origin: &Origin) -> Response {
    match service.list_keks(origin).await {
        Ok(keks) => Response::Keks {
            keks: keks
                .into_iter()
                .map(|kek| ListedKek {
                    id: kek.id.to_string(),
                    state: kek.state.as_str().to_owned(),
                    created: time(kek.created_at),
                    keys: kek.keys,
                    unused: time(kek.unused_since),
                    lacking: kek.lacking,
                })
                .collect(),
        },
        Err(error) => response(&error),
    }
}

fn time(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| time.to_string())
}

pub(super) async fn add(service: &Arc<Service>, origin: &Origin) -> Response {
    match service.add_kek(origin).await {
        Ok(id) => Response::KekAdded { id: id.to_string() },
        Err(error) => response(&error),
    }
}

pub(super) async fn activate(service: &Arc<Service>, origin: &Origin, id: Option<String>) -> Response {
    let id = match id.as_deref().map(parsed).transpose() {
        Ok(id) => id,
        Err(refused) => return refused,
    };
    match service.activate_kek(origin, id).await {
        Ok(activated) => {
            Response::KekActivated { id: activated.id.to_string(), warning: unwritten(&activated) }
        }
        Err(error) => response(&error),
    }
}

pub(super) async fn rewrap(
    service: &Arc<Service>,
    origin: &Origin,
    options: RewrapOptions,
    progress: watch::Sender<Progress>,
) -> Response {
    match service.rewrap(origin, options, progress).await {
        Ok(done) => rewrapped(done, None),
        Err(error) => response(&error),
    }
}

pub(super) async fn rotate(
    service: &Arc<Service>,
    origin: &Origin,
    options: RewrapOptions,
    progress: watch::Sender<Progress>,
) -> Response {
    match service.rotate_kek(origin, options, progress).await {
        Ok(Rotated { continued, activated, rewrapped: done }) => {
            rewrapped(done, Some(RotatedKek { continued, warning: unwritten(&activated) }))
        }
        Err(error) => response(&error),
    }
}

pub(super) async fn retire(
    service: &Arc<Service>,
    origin: &Origin,
    id: &str,
    retention: Duration,
) -> Response {
    let id = match parsed(id) {
        Ok(id) => id,
        Err(refused) => return refused,
    };
    match service.retire_kek(origin, &id, retention).await {
        Ok(()) => Response::KekRetired { id: id.to_string() },
        Err(error) => response(&error),
    }
}

/// Refuses to move the KEKs of a file that lacks one that this server has in memory: the file is an older copy then.
pub(super) fn lost(service: &Service, in_file: &[String]) -> Option<Response> {
    let keyring = service.keyring()?;
    let id = keyring.ids().find(|id| !in_file.iter().any(|found| found == id.as_str()))?;
    Some(Response::Refused {
        message: format!("the KEK file lacks KEK '{id}', which the running server has in memory"),
        hint: Some(
            "put the newest copy of the KEK file back, and do not restart the server before".to_owned(),
        ),
    })
}

fn rewrapped(done: Rewrapped, rotated: Option<RotatedKek>) -> Response {
    Response::KekRewrapped {
        rotated,
        active: done.active.to_string(),
        rewrapped: done.rewrapped,
        resealed: done.resealed,
        failed: done.failed.count,
        named: done.failed.named,
    }
}

/// Why the KEK file does not name the active KEK.
fn unwritten(activated: &Activated) -> Option<String> {
    activated
        .unwritten
        .as_ref()
        .map(|error| format!("the KEK is active, but the KEK file does not say so: {}", hint::text(error)))
}

fn parsed(id: &str) -> Result<KekId, Response> {
    KekId::parse(id).map_err(|_| Response::Refused {
        message: format!("a KEK id {}", KekId::RULE),
        hint: Some("'kek list' shows the ids".to_owned()),
    })
}

fn response(error: &KekError) -> Response {
    match error {
        KekError::Refused(refusal) => refused(refusal),
        KekError::Forbidden { what, hint } => Response::Refused { message: what.clone(), hint: hint.clone() },
        KekError::Keyring(error) => failed(error),
        KekError::Crypto(_) => failed(error),
    }
}

//! Execution of the commands.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agentrouter_audit::{HeadRow, Progress, PruneError, Pruned, Verification};
use agentrouter_model::{ApiKeyId, ApiKeyRecord, Owner, Realm, Reason, Refusal, Scope, ScopeSet, Timestamp};
use agentrouter_service::{AdminAct, IssueError, NewKey, Origin, Phase, RewrapOptions, Service, Unready};
use agentrouter_store::ExaminedKey;
use clap::ValueEnum as _;
use tokio::sync::watch;

use super::abilities::{abilities, warning};
use super::{ListedKey, Request, Response, keks};
use crate::hint;
use crate::settings::KekProvider;

/// The problems that a message names.
const SHOWN: usize = 5;

/// Executes a command on an open instance whose audit log is in `audit_dir`. Sends its progress, if it takes long.
pub async fn execute(
    service: &Arc<Service>,
    audit_dir: &Path,
    origin: &Origin,
    request: Request,
    progress: watch::Sender<Progress>,
) -> Response {
    let done = match request {
        Request::KeyCreate { user, scopes, realm, realms, expires_seconds, name } => {
            match new_key(service, &user, &scopes, realm.as_deref(), realms.as_deref(), expires_seconds, name)
            {
                Ok(new) => return create(service, origin, new).await,
                Err(message) => return Response::Refused { message, hint: None },
            }
        }
        Request::KeyList => list(service, origin).await,
        Request::KeyRevoke { id } => return revoke(service, origin, &id).await,
        Request::BackupBegin => begin(service, origin, AdminAct::Backup).await,
        Request::BackupEnd { ok } => Ok(end(service, origin, AdminAct::Backup, ok).await),
        Request::KekMoveBegin { to, keks } => {
            let to = provider(&to);
            if let Err(refusal) = service.record_move(origin, to).await {
                return refused(&refusal);
            }
            match keks::lost(service, &keks) {
                Some(refused) => {
                    service.conclude_move(origin, to, false).await;
                    return refused;
                }
                None => Ok(Response::Recorded),
            }
        }
        Request::KekMoveEnd { to, ok } => {
            service.conclude_move(origin, provider(&to), ok).await;
            Ok(Response::Recorded)
        }
        Request::State => {
            let fault =
                service.unready().await.map(|Unready { reason, detail }| format!("{reason}: {detail}"));
            Ok(Response::State { fault })
        }
        // The running server responds to it. Without one there are no addresses.
        Request::Addresses => Ok(Response::Addresses { urls: Vec::new() }),
        Request::AuditVerify { checkpoint } => {
            return verify(service, audit_dir, origin, checkpoint, progress).await;
        }
        Request::AuditPrune { older_than_seconds, accept_problems } => {
            let age = Duration::from_secs(older_than_seconds);
            return prune(service, origin, age, accept_problems).await;
        }
        Request::KekList => return keks::list(service, origin).await,
        Request::KekAdd => return keks::add(service, origin).await,
        Request::KekActivate { id } => return keks::activate(service, origin, id).await,
        Request::KekRewrap { rate, reseal } => {
            return keks::rewrap(service, origin, RewrapOptions { rate, reseal }, progress).await;
        }
        Request::KekRetire { id, backup_retention_seconds } => {
            let retention = Duration::from_secs(backup_retention_seconds);
            return keks::retire(service, origin, &id, retention).await;
        }
        Request::KekRotate { rate, reseal } => {
            return keks::rotate(service, origin, RewrapOptions { rate, reseal }, progress).await;
        }
        Request::AuditCheckpoint => return checkpoint(service, origin).await,
    };
    done.unwrap_or_else(|refusal| refused(&refusal))
}

/// Records the attempt of a process that asks.
async fn begin(service: &Service, origin: &Origin, act: AdminAct) -> Result<Response, Refusal> {
    service.record_admin(origin, act, Phase::Attempt, None).await.map(|()| Response::Recorded)
}

/// Records the outcome of a process that asks.
async fn end(service: &Service, origin: &Origin, act: AdminAct, ok: bool) -> Response {
    let failed = (!ok).then(|| Refusal::new(Reason::Internal));
    service.conclude_admin(origin, act, None, failed.as_ref()).await;
    Response::Recorded
}

/// The provider of this name. The command of another version may know others.
fn provider(name: &str) -> &'static str {
    KekProvider::from_str(name, false).map_or("unknown", KekProvider::as_str)
}

pub(super) fn refused(refusal: &Refusal) -> Response {
    Response::Refused { message: refusal.message().into_owned(), hint: None }
}

fn new_key(
    service: &Service,
    user: &str,
    scopes: &str,
    realm: Option<&str>,
    realms: Option<&str>,
    expires_seconds: Option<u64>,
    name: String,
) -> Result<NewKey, String> {
    let named = |what: &str, rule: &str| format!("{what} {rule}");
    let realms = realms
        .map(|list| items(list).map(Realm::parse).collect::<Result<Vec<_>, _>>())
        .transpose()
        .map_err(|error| named("--realms: each", error.rule()))?;
    let realm = match realm {
        Some(realm) => Realm::parse(realm).map_err(|error| named("--realm", error.rule()))?,
        // The first realm of a key's list is its current realm. Otherwise the current realm might be one that the key
        // may not use.
        None => realms.as_ref().and_then(|realms| realms.first().cloned()).unwrap_or_default(),
    };
    if realms.as_ref().is_some_and(|realms| !realms.contains(&realm)) {
        return Err("--realm must be one of --realms".to_owned());
    }
    if name.len() > 255 || name.chars().any(char::is_control) {
        return Err("--name must be at most 255 bytes without control characters".to_owned());
    }
    Ok(NewKey {
        name,
        user: Owner::parse(user).map_err(|error| named("--user", error.rule()))?,
        scopes: items(scopes)
            .map(Scope::parse)
            .collect::<Result<ScopeSet, _>>()
            .map_err(|error| format!("--scopes: each {error}"))?,
        realm,
        realms,
        expires_at: expires_seconds
            .map(|seconds| service.clock().now().saturating_add(Duration::from_secs(seconds))),
    })
}

/// The items of a list on the command line. They may have spaces between them.
fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim)
}

async fn create(service: &Service, origin: &Origin, new: NewKey) -> Response {
    let (token, record) = match service.issue_key(origin, new).await {
        Ok(issued) => issued,
        Err(IssueError::Refused(refusal)) => return refused(&refusal),
        Err(error) => return failed(&error),
    };
    let realms = record.realms.as_deref();
    Response::KeyCreated {
        id: record.id.to_string(),
        token: token.expose_bare().to_owned(),
        abilities: abilities(&record.user, record.scopes, realms),
        warning: warning(record.scopes, realms),
    }
}

async fn list(service: &Service, origin: &Origin) -> Result<Response, Refusal> {
    let now = service.clock().now();
    let keys = service.list_keys(origin).await?;
    Ok(Response::Keys { keys: keys.iter().map(|key| examined(key, now)).collect() })
}

fn examined(key: &ExaminedKey, now: Timestamp) -> ListedKey {
    match key {
        ExaminedKey::Whole(key) => listed(key, now),
        ExaminedKey::Damaged { id, revoked } => {
            untrusted(id.as_ref(), if *revoked { "revoked" } else { "damaged" })
        }
        ExaminedKey::Refused { id, .. } => untrusted(Some(id), "refused"),
    }
}

/// A key whose row does not parse or is not authentic. Its fields are not trusted, and the key is rejected.
fn untrusted(id: Option<&ApiKeyId>, state: &str) -> ListedKey {
    let unknown = || "?".to_owned();
    ListedKey {
        id: id.map_or_else(unknown, ToString::to_string),
        name: String::new(),
        user: unknown(),
        scopes: unknown(),
        realm: unknown(),
        realms: unknown(),
        created: unknown(),
        expires: unknown(),
        state: state.to_owned(),
    }
}

fn listed(key: &ApiKeyRecord, now: Timestamp) -> ListedKey {
    let state = match (key.revoked_at, key.is_live(now)) {
        (Some(_), _) => "revoked",
        (None, true) => "live",
        (None, false) => "expired",
    };
    let realms =
        key.realms.as_ref().map(|realms| realms.iter().map(Realm::as_str).collect::<Vec<_>>().join(","));
    ListedKey {
        id: key.id.to_string(),
        name: key.name.clone(),
        user: key.user.to_string(),
        scopes: key.scopes.to_string(),
        realm: key.realm.to_string(),
        realms: realms.unwrap_or_else(|| "all".to_owned()),
        created: key.created_at.to_string(),
        expires: key.expires_at.map_or_else(|| "never".to_owned(), |end| end.to_string()),
        state: state.to_owned(),
    }
}

async fn revoke(service: &Arc<Service>, origin: &Origin, id: &str) -> Response {
    let hint = Some("'key list' shows the ids of all keys".to_owned());
    // The operator may have pasted the whole key. Only its id is used, and the rest is dropped.
    let bare = id.strip_prefix("ak-").unwrap_or(id);
    let bare = bare.split_once('_').map_or(bare, |(id, _)| id);
    let Ok(id) = ApiKeyId::parse(bare) else {
        return Response::Refused { message: "the key id must be 16 letters and digits".to_owned(), hint };
    };
    match service.revoke_key(origin, &id).await {
        Ok(true) => Response::KeyRevoked { id: id.to_string() },
        Ok(false) => Response::Refused { message: "there is no key with that id".to_owned(), hint },
        Err(refusal) => refused(&refusal),
    }
}

/// The response to a command that failed.
pub(super) fn failed(error: &(dyn std::error::Error + 'static)) -> Response {
    Response::Refused { message: hint::text(error), hint: hint::of(error).into_iter().next() }
}

async fn prune(service: &Arc<Service>, origin: &Origin, age: Duration, accept_problems: bool) -> Response {
    const ACT: AdminAct = AdminAct::PruneAudit;
    if let Err(refusal) = service.record_admin(origin, ACT, Phase::Attempt, None).await {
        return refused(&refusal);
    }
    let micros = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    let before = Timestamp::from_micros(service.clock().now().as_micros().saturating_sub(micros));
    let audit = service.audit().clone();
    let done = tokio::task::spawn_blocking(move || audit.prune(before, accept_problems)).await;
    let refusal = (!matches!(done, Ok(Ok(_)))).then(|| Refusal::new(Reason::Internal));
    service.conclude_admin(origin, ACT, None, refusal.as_ref()).await;
    match done {
        Ok(Ok(Pruned { files, last, unshipped })) => Response::AuditPruned { files, last, unshipped },
        Ok(Err(PruneError::Problems(problems))) => {
            let first: Vec<String> = problems.iter().take(SHOWN).map(ToString::to_string).collect();
            let message = format!(
                "nothing was removed: the files to be removed have {} problem(s): {}",
                problems.len(),
                first.join(", ")
            );
            let hint = "keep a copy of the files, and run this again with --accept-problems";
            Response::Refused { message, hint: Some(hint.to_owned()) }
        }
        Ok(Err(error)) => failed(&error),
        Err(_) => Response::Refused { message: "the command did not finish".to_owned(), hint: None },
    }
}

async fn checkpoint(service: &Arc<Service>, origin: &Origin) -> Response {
    if let Err(refusal) = service.record_admin(origin, AdminAct::SignCheckpoint, Phase::Outcome, None).await {
        return refused(&refusal);
    }
    let audit = service.audit().clone();
    // So the checkpoint covers all records that were appended before this command.
    if let Err(error) = audit.flush().await {
        return failed(&error);
    }
    let verifier_key = audit.verifier_key();
    match tokio::task::spawn_blocking(move || audit.checkpoint()).await {
        Ok(Ok(note)) => Response::AuditCheckpoint { note, verifier_key },
        Ok(Err(error)) => failed(&error),
        Err(_) => Response::Refused { message: "the checkpoint was not made".to_owned(), hint: None },
    }
}

async fn verify(
    service: &Arc<Service>,
    audit_dir: &Path,
    origin: &Origin,
    checkpoint: Option<String>,
    progress: watch::Sender<Progress>,
) -> Response {
    if let Err(refusal) = service.record_admin(origin, AdminAct::VerifyAudit, Phase::Outcome, None).await {
        return refused(&refusal);
    }
    let row = match service.store().audit_head().await {
        Ok(row) => HeadRow::from(row),
        Err(error) => return failed(&error),
    };
    let epoch = match service.store().epoch().await {
        Ok(epoch) => epoch,
        Err(error) => return failed(&error),
    };
    let key = match service.audit_key().await {
        Ok(key) => key,
        Err(error) => return failed(&error),
    };
    // So the files contain all records that were appended before this command.
    if let Err(error) = service.audit().flush().await {
        return failed(&error);
    }
    let (dir, audit) = (audit_dir.to_owned(), service.audit().clone());
    let verified = tokio::task::spawn_blocking(move || {
        let (replica, epoch, checkpoint) = (audit.replica(), epoch.as_deref(), checkpoint.as_deref());
        Verification { dir: &dir, key: &key, replica, row, epoch, checkpoint }.run(&mut |done| {
            progress.send_replace(done);
        })
    });
    match verified.await {
        Ok(Ok(report)) => Response::AuditVerified {
            records: report.records,
            files: report.files,
            torn: report.torn,
            problems: problems(&report),
            pruned: report.pruned,
            pruned_problems: report.pruned_problems,
            holds: report.holds,
        },
        Ok(Err(error)) => failed(&error),
        Err(_) => Response::Refused { message: "the verification did not finish".to_owned(), hint: None },
    }
}

/// The problems, one per line.
pub fn problems(report: &agentrouter_audit::Report) -> Vec<String> {
    let mut lines: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    if report.more_problems > 0 {
        lines.push(format!("and {} more", report.more_problems));
    }
    lines
}

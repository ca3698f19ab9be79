//! Checks of the contents of the files: they load, they belong together, every value opens, the chain of the audit log
//! is intact, and there is a valid API key.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentrouter_audit::{HeadRow, Verification};
use agentrouter_crypto::{ApiToken, InternalKey, SystemRng, open};
use agentrouter_instance::admin::problems;
use agentrouter_instance::belonging::{Belonging, Engine};
use agentrouter_instance::durable_file;
use agentrouter_instance::generation::row_tags_read_only;
use agentrouter_instance::instance::{AUDIT, BOOTSTRAP};
use agentrouter_instance::kek;
use agentrouter_instance::replica::{self, REPLICA};
use agentrouter_instance::settings::Settings;
use agentrouter_instance::storage::{self, DATABASE};
use agentrouter_keyring::Keyring;
use agentrouter_model::{ApiKeyId, ApiKeyRecord, Slot, Timestamp};
use agentrouter_postgres::{ConnectOptions, PostgresStore};
use agentrouter_service::{UnlockError, forged_facts, read_sweep, unlock};
use agentrouter_sqlite::SqliteStore;
use agentrouter_store::portable::LeftOut;
use agentrouter_store::row_tags::{self, Admission};
use agentrouter_store::wrapped_keys::{KEKS, RESEALED};
use agentrouter_store::{ExaminedKey, Inspection, RowTags, Store, StoreError, Stored};

use super::history::History;
use super::{Finding, LINES, Level, files, listed};

/// How long before its expiry a key is reported.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// The age of a complete sweep from which it is reported.
const LATE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What to do beside a running server with a KEK file that lacks a KEK.
const IN_MEMORY: &str = "a server that still runs has the KEK in memory: do not restart it before";

/// A store, opened for reading.
enum Opened {
    Embedded(SqliteStore),
    Postgres(PostgresStore),
}

impl Opened {
    fn as_store(&self) -> &dyn Store {
        match self {
            Self::Embedded(store) => store,
            Self::Postgres(store) => store,
        }
    }
}

/// Runs the checks, each on the files that the checks before it have opened.
pub(crate) async fn examine(settings: &Settings, now: Timestamp, findings: &mut Vec<Finding>) {
    let dir = &settings.data_dir;
    let keyring = keyring(settings, findings);
    let own = storage::require_own_database(settings);
    if let Err(error) = &own
        && dir.join(DATABASE).exists()
    {
        findings.push(Finding::error("database", &**error));
        return;
    }
    let store = match storage::target(settings) {
        Ok(None) => embedded(dir, findings),
        Ok(Some(target)) => postgres(settings, target, findings).await,
        Err(error) => {
            findings.push(Finding::error("database", &*error));
            None
        }
    };
    let row = match &store {
        // Read before the log, which only grows.
        Some(store) => store.as_store().audit_head().await.map(HeadRow::from),
        None => Ok(HeadRow::NotYet),
    };
    if let Some(store) = &store
        && let Ok(Some(import)) = store.as_store().unfinished_import().await
    {
        let text = format!("the store was being filled and has {} item(s) so far", import.done);
        let hint = "run the same 'restore' or 'migrate' again, or move the store away and start again with an empty one";
        findings.push(Finding::fail("import", text).hint(hint));
        return;
    }
    let mut history = History::new(now);
    let key = match (&keyring, &store) {
        (Some(keyring), Some(store)) => belong_together(keyring, store.as_store(), findings).await,
        _ => None,
    };
    let mut manifest = None;
    if let (Some(store), Some(key)) = (&store, &key) {
        manifest = Some(match row_tags_read_only(dir, key) {
            Ok(tags) => {
                store.as_store().attach_tags(Arc::clone(&tags));
                findings.extend(facts(store.as_store(), &*tags).await);
                findings.push(sweep(settings, store.as_store(), &*tags, now).await);
                key_manifest(store.as_store(), &*tags).await
            }
            Err(error) => Finding::error("key manifest", &*error),
        });
    }
    if let (Some(keyring), Some(store), Some(_)) = (&keyring, &store, &key) {
        findings.extend(versions(keyring, store, &mut history).await);
    }
    if let Some(key) = &key
        && let Err(error) = Belonging::new(Engine::of(settings), key).check(dir)
    {
        findings.push(Finding::error("store", &*error));
        return;
    }
    findings.extend(manifest);
    match (key, row) {
        (Some(key), Ok(row)) => {
            let epoch = match &store {
                Some(store) => store.as_store().epoch().await.ok().flatten(),
                None => None,
            };
            let whole = audit_log(settings, &key, row, epoch.as_deref(), &mut history, findings);
            if let (true, Some(store)) = (whole && history.is_read, &store) {
                findings.push(history.finding(matches!(store, Opened::Embedded(_))));
            }
        }
        (Some(_), Err(error)) => findings.push(Finding::error("audit log", &error)),
        (None, _) => {}
    }
    if let Some(store) = &store {
        match store.as_store().examine_keys().await {
            Ok(examined) => {
                let (mut keys, mut damaged, mut refused) = (Vec::new(), Vec::new(), Vec::new());
                for key in examined {
                    match key {
                        ExaminedKey::Whole(key) => keys.push(key),
                        ExaminedKey::Damaged { id, revoked: false } => damaged.push(id),
                        ExaminedKey::Damaged { .. } => {}
                        ExaminedKey::Refused { id, why } => refused.push(format!("{id}: {why}")),
                    }
                }
                let whole = damaged.is_empty() && refused.is_empty();
                findings.extend(whole.then(|| api_keys(&keys, now)));
                findings.extend(history.key_use(&keys));
                findings.extend((!damaged.is_empty()).then(|| damaged_keys(&damaged)));
                findings.extend((!refused.is_empty()).then(|| refused_keys(refused)));
                findings.extend(bootstrap(&dir.join(BOOTSTRAP), &keys, now));
            }
            Err(error) => findings.push(Finding::error("API keys", &error)),
        }
    }
}

fn keyring(settings: &Settings, findings: &mut Vec<Finding>) -> Option<Keyring> {
    let what = "KEK file";
    match kek::load(settings) {
        Ok(keyring) => {
            let count = keyring.ids().len();
            let text = format!("{count} key(s), active {}", keyring.active().id());
            findings.push(files::private(what, &settings.kek_file(), &settings.data_dir, &text));
            Some(keyring)
        }
        Err(error) => {
            findings.push(Finding::error(what, &*error));
            None
        }
    }
}

/// Whether a server has served from this directory. If that is unknown, it may have.
fn is_of_a_store(dir: &Path) -> bool {
    dir.join(REPLICA).exists() || storage::has_served(dir).unwrap_or(true)
}

fn embedded(dir: &Path, findings: &mut Vec<Finding>) -> Option<Opened> {
    let what = "database";
    let path = dir.join(DATABASE);
    if let Err(error) = path.try_exists() {
        findings.push(files::unreachable(what, &path, &error));
        return None;
    }
    if !path.exists() {
        let text = format!("there is no {}", path.display());
        let hint = if dir.join(REPLICA).exists() {
            "the store is in PostgreSQL: set --database-url (AGENTROUTER_SECRETS_DATABASE_URL) as the server has it"
        } else if is_of_a_store(dir) {
            "restore it, or set --database-url (AGENTROUTER_SECRETS_DATABASE_URL) if the store is in PostgreSQL"
        } else {
            "name the right directory with --data-dir; in a new one, start 'serve' once"
        };
        findings.push(Finding::fail(what, text).hint(hint));
        return None;
    }
    let inspected =
        SqliteStore::open_read_only(&path).and_then(|store| store.inspect().map(|seen| (store, seen)));
    let (store, seen) = match inspected {
        Ok(inspected) => inspected,
        Err(error) => {
            let finding = Finding::error(what, &error);
            let hint = "restore a backup of it, if it is damaged; see docs/operations.md";
            findings.push(if finding.hints.is_empty() { finding.hint(hint) } else { finding });
            return None;
        }
    };
    let text = contents(&seen);
    if seen.problems.is_empty() {
        let beside = |suffix: &str| dir.join(format!("{DATABASE}{suffix}"));
        let all: Vec<PathBuf> = ["", "-wal", "-shm"].iter().map(|suffix| beside(suffix)).collect();
        let path = files::exposed(&all).unwrap_or(&path);
        findings.push(files::private(what, path, dir, &text));
    } else {
        let hint = "stop the server, keep a copy of the data directory, and restore a backup";
        findings.push(Finding::fail(what, listed(text, seen.problems)).hint(hint));
    }
    Some(Opened::Embedded(store))
}

/// The same for a database that several servers share.
async fn postgres(
    settings: &Settings,
    target: ConnectOptions,
    findings: &mut Vec<Finding>,
) -> Option<Opened> {
    let what = "database";
    if let Some(path) = &settings.database_password_file {
        findings.extend(files::secret("its password", path));
    }
    let shown = target.to_string();
    let replica = match replica::read(&settings.data_dir) {
        Ok(replica) => replica.unwrap_or_default(),
        Err(error) => {
            findings.push(Finding::error("replica", &*error));
            return None;
        }
    };
    let inspected = async {
        let store = PostgresStore::open_read_only(target, &replica).await?;
        let (seen, weaknesses) = (store.inspect().await?, store.weaknesses().await?);
        let servers = store.registered().await?;
        Ok::<_, StoreError>((store, seen, weaknesses, servers))
    };
    let (store, seen, weaknesses, servers) = match inspected.await {
        Ok(inspected) => inspected,
        Err(error) => {
            let finding = Finding::error(what, &error);
            let hint =
                format!("check that PostgreSQL runs at {shown} and admits this server; see docs/postgres.md");
            findings.push(if finding.hints.is_empty() { finding.hint(hint) } else { finding });
            return None;
        }
    };
    let text = format!("PostgreSQL at {shown}, {}, {servers} server(s) at work", contents(&seen));
    findings.push(if !seen.problems.is_empty() {
        let hint = "stop the servers, keep a copy of the database, and restore a backup";
        Finding::fail(what, listed(text, seen.problems)).hint(hint)
    } else if !weaknesses.is_empty() {
        Finding::warn(what, listed(text, weaknesses)).hint("change that in the database's configuration")
    } else {
        Finding::ok(what, text)
    });
    Some(Opened::Postgres(store))
}

fn contents(seen: &Inspection) -> String {
    format!(
        "schema {}, {} secret(s) in {} version(s), {} API key(s)",
        seen.schema, seen.secrets, seen.versions, seen.api_keys
    )
}

/// Whether the server could start with this KEK file and this database. If so, the key of the audit log.
async fn belong_together(
    keyring: &Keyring,
    store: &dyn Store,
    findings: &mut Vec<Finding>,
) -> Option<InternalKey> {
    let what = "KEK";
    let known = match store.kek_checks().await {
        Ok(known) => known,
        Err(error) => {
            findings.push(Finding::error(what, &error));
            return None;
        }
    };
    let active = keyring.active().id();
    if known.is_empty() || (known.iter().all(|(id, _)| id != active)) {
        let missing = known.iter().find(|(id, _)| keyring.kek(id).is_none());
        findings.push(match missing {
            Some((id, _)) => {
                let text = format!("the database needs KEK '{id}', which the KEK file lacks");
                let finding = Finding::fail(what, text);
                finding.hint("restore the KEK file that belongs to this database").hint(IN_MEMORY)
            }
            None => Finding::warn(what, "the database has not been served with the active KEK yet")
                .hint("the next start of the server sees to that"),
        });
        return None;
    }
    // The steps of a start. This store refuses the writes of a first start, which was checked above.
    match unlock(store, keyring, &SystemRng).await {
        Ok(keys) => {
            findings.push(Finding::ok(
                what,
                format!("{} of {} in use belong to the database", known.len(), known.len()),
            ));
            Some(keys.audit)
        }
        Err(error) => {
            let mut finding = Finding::error(what, &error);
            if matches!(error, UnlockError::MissingKek { .. } | UnlockError::WrongKek { .. }) {
                finding = finding.hint(IN_MEMORY);
            }
            findings.push(finding);
            None
        }
    }
}

/// Whether every row of a secret or version is authentic, and every stored value opens at its address. Each value is wiped
/// at once, and only ids and numbers are reported.
async fn versions(keyring: &Keyring, store: &Opened, history: &mut History) -> Vec<Finding> {
    let what = "values";
    let (mut all, mut missing, mut corrupt) = (0_u64, 0_u64, 0_u64);
    let (mut listed, mut refused) = (Vec::new(), LeftOut::default());
    let look = |stored: &Stored, authentic: bool| {
        if !authentic {
            refused.note(|| format!("secret {} version {}", stored.secret.id, stored.secret.version));
        }
        if stored.envelope.is_none() {
            return;
        }
        all += 1;
        history.see_stored(stored);
        let Some(fault) = fault(keyring, stored) else { return };
        match fault {
            "kek_unavailable" => missing += 1,
            _ => corrupt += 1,
        }
        if listed.len() < LINES {
            listed.push(format!("secret {} version {}: {fault}", stored.secret.id, stored.secret.version));
        }
    };
    let read = match store {
        Opened::Embedded(store) => store.each_version(look),
        Opened::Postgres(store) => store.each_version(look).await,
    };
    if let Err(error) = read {
        return vec![Finding::error(what, &error)];
    }
    history.is_read = true;
    let mut findings = Vec::new();
    if refused.count > 0 {
        findings.push(refused_rows(refused));
    }
    let wrong = missing + corrupt;
    if wrong == 0 {
        findings.push(Finding::ok(what, format!("all {all} open")));
        return findings;
    }
    if wrong > LINES as u64 {
        listed.push(format!("and {} more", wrong - LINES as u64));
    }
    let text = format!("{wrong} of {all} do not open\n{}", listed.join("\n"));
    let mut finding = Finding::fail(what, text);
    if missing > 0 {
        finding = finding.hint("kek_unavailable: restore the KEK file that holds the KEKs of these versions");
    }
    if corrupt > 0 {
        finding = finding.hint(
            "corrupt: find out who or which disk changed the database; restore a backup, or write new values",
        );
    }
    findings.push(finding);
    findings
}

/// Rows of secrets and versions that are not authentic, and which are therefore refused.
fn refused_rows(LeftOut { count, mut named }: LeftOut) -> Finding {
    if count > named.len() as u64 {
        named.push(format!("and {} more", count - named.len() as u64));
    }
    let text = format!("{count} are not authentic, so they are refused\n{}", named.join("\n"));
    Finding::fail("rows", text)
        .hint("find out who changed the database; see SECURITY.md")
        .hint("restore a backup; or delete the secrets and create them again")
        .hint("if you put back an older database on purpose, see docs/operations.md")
}

/// Why a version does not open, in the terms of a validation. `None` if it opens.
fn fault(keyring: &Keyring, stored: &Stored) -> Option<&'static str> {
    let (secret, envelope) = (&stored.secret, stored.envelope.as_ref()?);
    let Some(kek) = keyring.kek(&envelope.kek_id) else { return Some("kek_unavailable") };
    let slot = Slot { place: &secret.place, id: secret.id, version: secret.version };
    open(kek, slot, envelope).err().map(|_| "corrupt")
}

/// Whether the chain of the audit log is whole, from its first record. Shows `history` its records.
fn audit_log(
    settings: &Settings,
    key: &InternalKey,
    row: HeadRow,
    epoch: Option<&str>,
    history: &mut History,
    findings: &mut Vec<Finding>,
) -> bool {
    let dir = &settings.data_dir;
    let audit = &dir.join(AUDIT);
    let replica = match settings.database_url {
        Some(_) => replica::read(dir).ok().flatten(),
        None => None,
    };
    let replica = replica.as_deref();
    let what = "audit log";
    let verification = Verification { dir: audit, key, replica, row, epoch, checkpoint: None };
    let report = match verification.run_each(&mut |record| history.see_record(record)) {
        Ok(report) => report,
        Err(error) => {
            findings
                .push(Finding::error(what, &error).hint("check that the folder is there and can be read"));
            return false;
        }
    };
    let mut text = format!("{} record(s) in {} file(s)", report.records, report.files);
    if report.pruned > 0 {
        // Writing to a string does not fail.
        let _ = write!(text, ", after record {}, up to which they were removed", report.pruned);
    }
    if report.torn > 0 {
        // Writing to a string does not fail.
        let _ = write!(text, ", {} cut-off write(s)", report.torn);
    }
    if !report.is_clean() {
        let hint = "find out who changed it and keep a copy; records it does not speak of can be trusted";
        findings.push(Finding::fail(what, listed(text, problems(&report))).hint(hint));
        return false;
    }
    let folder = files::private(what, audit, dir, &format!("{text}, the chain is whole"));
    let logs: Vec<PathBuf> =
        std::fs::read_dir(audit).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    findings.push(match files::exposed(&logs) {
        Some(log) if folder.level == Level::Ok => files::private(what, log, dir, &text),
        _ => folder,
    });
    true
}

/// Keys whose rows do not parse, and which are therefore rejected.
fn damaged_keys(ids: &[Option<ApiKeyId>]) -> Finding {
    let lines =
        ids.iter().map(|id| id.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string)).collect();
    let text = format!("{} do not parse, so they do not work", ids.len());
    Finding::fail("API keys", listed(text, lines))
        .hint("revoke each by its id and issue new ones: agentrouter-secrets key revoke ID; key create")
        .hint("find out who or which disk changed the database")
}

/// Whether the list of all API keys is authentic, and as new as this directory knows it.
async fn key_manifest(store: &dyn Store, tags: &dyn RowTags) -> Finding {
    let what = "key manifest";
    let manifest = match store.key_manifest().await {
        Ok(manifest) => manifest,
        Err(error) => return Finding::error(what, &error),
    };
    let why = match tags.note(manifest.as_deref()) {
        Admission::Admitted if tags.requires_tags() => return Finding::ok(what, "it is authentic"),
        Admission::Admitted => {
            return Finding::warn(what, "the rows of this store are not authenticated yet")
                .hint("a server does that when no server of an older version is registered");
        }
        Admission::Older => row_tags::OLDER,
        Admission::Refused(why) => why,
    };
    Finding::fail(what, format!("{why}, so no API key works"))
        .hint("find out who changed the database, and restore a backup; see SECURITY.md")
        .hint("if you put back an older database on purpose, see docs/operations.md")
}

/// Facts about the KEKs that are not authentic.
async fn facts(store: &dyn Store, tags: &dyn RowTags) -> Option<Finding> {
    let what = "KEK records";
    let forged = match forged_facts(store, tags).await {
        Ok(forged) => forged,
        Err(error) => return Some(Finding::error(what, &error)),
    };
    let is_of_keks = forged.contains(&KEKS);
    let lines = forged.into_iter().map(|name| match name {
        KEKS => "when KEKs were last used: 'kek retire' is refused".to_owned(),
        RESEALED => "how far a resealing is: the next one begins again".to_owned(),
        _ => "what the sweep has found: the next one begins again".to_owned(),
    });
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() {
        return None;
    }
    let text = format!("{} are not authentic, so they are not used", lines.len());
    let finding =
        Finding::fail(what, listed(text, lines)).hint("find out who changed the database; see SECURITY.md");
    Some(if is_of_keks { finding.hint("run 'kek rewrap', which begins that record again") } else { finding })
}

/// The last complete sweep of a server.
async fn sweep(settings: &Settings, store: &dyn Store, tags: &dyn RowTags, now: Timestamp) -> Finding {
    let what = "sweep";
    let sweep = match read_sweep(store, tags).await {
        Ok(sweep) => sweep,
        Err(error) => return Finding::error(what, &error),
    };
    let off = if settings.sweep_rate == 0 { "; it is off (sweep.rate)" } else { "" };
    let Some((sweep, at)) = sweep.and_then(|sweep| sweep.completed_at.map(|at| (sweep, at))) else {
        return Finding::ok(what, format!("no server has completed one yet{off}"));
    };
    let versions: u64 = sweep.versions.iter().map(|(_, count)| count).sum();
    let text = format!(
        "the last complete one was at {at}: {versions} version(s), {} did not open{off}",
        sweep.undecryptable
    );
    if now.saturating_since(at) > LATE && settings.sweep_rate != 0 {
        let hint = "start the server, or read its log, which says why the sweep cannot continue";
        return Finding::warn(what, text).hint(hint);
    }
    Finding::ok(what, text)
}

/// Keys that are not authentic, and which are therefore rejected.
fn refused_keys(lines: Vec<String>) -> Finding {
    let text = format!("{} are not authentic, so they do not work", lines.len());
    Finding::fail("API keys", listed(text, lines))
        .hint("find out who changed the database; see SECURITY.md")
        .hint("revoke each by its id and issue new ones: agentrouter-secrets key revoke ID; key create")
        .hint("if you put back an older database on purpose, see docs/operations.md")
}

/// Whether any key is valid, and which ones expire soon.
fn api_keys(keys: &[ApiKeyRecord], now: Timestamp) -> Finding {
    let what = "API keys";
    let live: Vec<_> = keys.iter().filter(|key| key.is_live(now)).collect();
    if live.is_empty() {
        let hint = if keys.is_empty() {
            "the next start of 'serve' issues a first one"
        } else {
            "issue one: agentrouter-secrets key create --user NAME --scopes secrets/read"
        };
        return Finding::fail(what, format!("none of {} works, so every request is rejected", keys.len()))
            .hint(hint);
    }
    let text = format!("{} of {} work", live.len(), keys.len());
    let soon = |key: &&&ApiKeyRecord| key.expires_at.is_some_and(|end| end.saturating_since(now) < SOON);
    let ending: Vec<String> = live
        .iter()
        .filter(soon)
        .filter_map(|key| Some(format!("{} of {} ends at {}", key.id, key.user, key.expires_at?)))
        .collect();
    if ending.is_empty() {
        Finding::ok(what, text)
    } else {
        Finding::warn(what, listed(text, ending))
            .hint("issue new ones in time: agentrouter-secrets key create")
    }
}

/// The file with the first key, while it is there.
fn bootstrap(path: &Path, keys: &[ApiKeyRecord], now: Timestamp) -> Option<Finding> {
    let what = "first key";
    if !path.exists() {
        return None;
    }
    let dir = path.parent().unwrap_or(path);
    let text = durable_file::read(dir, BOOTSTRAP).ok();
    let token = text.as_ref().and_then(|text| {
        let bare = text.lines().find_map(|line| line.strip_prefix("AGENTROUTER_API_KEY="))?;
        ApiToken::parse(bare).ok()
    });
    let shown = path.display();
    let Some(token) = token else {
        let finding = Finding::warn(what, format!("{shown} holds no key"));
        return Some(finding.hint("delete it, or make it readable"));
    };
    let known = keys.iter().find(|key| key.id == token.id() && key.digest == token.digest());
    Some(match known {
        None => Finding::warn(what, format!("{shown} holds a key that is not one of this database"))
            .hint("delete it; if there is no other key, the next start of 'serve' writes a new one"),
        Some(key) if !key.is_live(now) => {
            Finding::ok(what, format!("{shown} holds a key that no longer works; delete it"))
        }
        Some(_) => {
            let finding = files::private(what, path, dir, &format!("{shown} holds a key with all scopes"));
            // A user that can read it has that key.
            if finding.level == Level::Warn { Finding { level: Level::Fail, ..finding } } else { finding }
        }
    })
}

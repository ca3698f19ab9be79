//! ListSecrets: page by page, in a stable order.

use agentrouter_model::limits::{NAME_BYTES, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX};
use agentrouter_model::rpc::{ListSecrets, Page};
use agentrouter_model::{ApiKeyRecord, Owner, PageCursor, Realm, Refusal, Rpc, Tags};
use agentrouter_store::{ListQuery, ListScope, Realms, StatusFilter};

use crate::audit_records::Subject;
use crate::checks::Checks;
use crate::page_token::PageTokens;
use crate::{CallContext, Service, store_refusal};

impl Service {
    /// The secrets that the caller may see, by (realm, name, version): its own, and those of `system` in the LLM
    /// realms. Without a realm the answer is exactly the union of the lists of every realm.
    ///
    /// # Errors
    /// [`ScopeMissing`](agentrouter_model::Reason::ScopeMissing), `RealmNotAllowed`, `InvalidRequest`,
    /// `PageTokenInvalid`, `AuditUnavailable`, `StoreUnavailable`.
    pub async fn list(&self, ctx: &CallContext, call: ListSecrets<'_>) -> Result<Page, Refusal> {
        self.list_as(ctx, call, |page| page).await
    }

    /// The same in the form that `write` gives it. It is written before the audit record is, and let go after that:
    /// while its rows are in the processor's cache and not those of the other calls that wait for their records.
    ///
    /// # Errors
    /// As [`Service::list`].
    pub async fn list_as<T>(
        &self,
        ctx: &CallContext,
        call: ListSecrets<'_>,
        write: impl FnOnce(Page) -> T,
    ) -> Result<T, Refusal> {
        let mut subject = Subject::default();
        let result = self.page(ctx, &call, &mut subject).await.map(write);
        self.release(ctx, Rpc::ListSecrets, &subject, result).await
    }

    async fn page(
        &self,
        ctx: &CallContext,
        call: &ListSecrets<'_>,
        subject: &mut Subject,
    ) -> Result<Page, Refusal> {
        ctx.caller.may(Rpc::ListSecrets)?;
        let key = ctx.caller.key();
        let mut query = check(key, call, subject)?;
        query.now = self.clock.now();
        let tokens = PageTokens::new(&self.page_tokens, key, call, &query.tags);
        if !call.page_token.is_empty() {
            query.after = Some(tokens.read(call.page_token)?);
        }

        // One row more than asked tells whether there is a next page.
        let size = query.limit as usize;
        query.limit += 1;
        let mut secrets = self.store.list(&query).await.map_err(|error| store_refusal(&error))?;
        let more = secrets.len() > size;
        secrets.truncate(size);
        let next_page_token = match secrets.last() {
            Some(last) if more => tokens.write(&PageCursor {
                realm: last.place.realm.clone(),
                name: last.place.name.clone(),
                version: last.version,
            }),
            _ => String::new(),
        };
        Ok(Page { secrets, next_page_token })
    }
}

fn check(key: &ApiKeyRecord, call: &ListSecrets<'_>, subject: &mut Subject) -> Result<ListQuery, Refusal> {
    // Without a realm, the caller's own are covered and some of the system's.
    subject.owner = Some(key.user.clone());
    let mut checks = Checks::new(key, subject);
    let realm = if call.realm.is_empty() { None } else { checks.realm(call.realm)? };
    let statuses = match call.status {
        "" | "active" => StatusFilter::Active,
        "rotated_pending" => StatusFilter::RotatedPending,
        "retired" => StatusFilter::Retired,
        "any" => StatusFilter::Any,
        _ => {
            checks.violation("status", "must be active, rotated_pending, retired or any");
            StatusFilter::Active
        }
    };
    let tags = checks.field("tags", Tags::parse(call.tags.iter().copied())).unwrap_or_default();
    if !is_name_prefix(call.name_prefix) {
        checks.violation("name_prefix", "must be at most 255 characters of A-Z a-z 0-9 . _ -");
    }
    if call.page_size < 0 {
        checks.violation("page_size", "must not be negative");
    }
    let limit = match u32::try_from(call.page_size) {
        Ok(0) | Err(_) => PAGE_SIZE_DEFAULT,
        Ok(size) => size.min(PAGE_SIZE_MAX),
    };
    let scopes = scopes(key, realm);
    let name_prefix = (!call.name_prefix.is_empty()).then(|| call.name_prefix.to_owned());
    let now = agentrouter_model::Timestamp::from_micros(0);
    checks.finish(Some(ListQuery { scopes, statuses, tags, name_prefix, after: None, limit, now }))
}

/// What a list covers: in one realm its owner's secrets; over all realms the caller's own and, in the LLM realms,
/// those of `system`; and only the realms that the key is limited to, if it is.
fn scopes(key: &ApiKeyRecord, realm: Option<Realm>) -> Vec<ListScope> {
    let owner_in = |realm: &Realm| if realm.is_llm() { Owner::System } else { key.user.clone() };
    let one = |realm: Realm| ListScope { owner: owner_in(&realm), realms: Realms::Only(vec![realm]) };
    match (realm, &key.realms) {
        (Some(realm), _) => vec![one(realm)],
        (None, Some(realms)) => {
            let mut realms = realms.clone();
            realms.sort();
            realms.dedup();
            realms.into_iter().map(one).collect()
        }
        (None, None) => {
            let own = ListScope { owner: key.user.clone(), realms: Realms::All };
            let llm = Realm::LLM.into_iter().filter_map(|realm| Realm::parse(realm).ok()).collect();
            let shared = ListScope { owner: Owner::System, realms: Realms::Only(llm) };
            if key.user.is_system() { vec![own] } else { vec![own, shared] }
        }
    }
}

fn is_name_prefix(text: &str) -> bool {
    text.len() <= NAME_BYTES
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

//! ListSecrets: pages of secrets in a stable order.

use agentrouter_model::limits::{NAME_BYTES, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX};
use agentrouter_model::rpc::{ListSecrets, Page};
use agentrouter_model::{Grant, Owner, PageCursor, Realm, Refusal, Rpc, Tags, Timestamp};
use agentrouter_store::{ListQuery, ListScope, Realms, StatusFilter};

use crate::audit_records::Subject;
use crate::checks::Checks;
use crate::page_token::PageTokens;
use crate::{CallContext, Service, read_for_caller};

impl Service {
    /// The secrets that the caller may see, ordered by (realm, name, version): its own, and those of `system` in the LLM
    /// realms. A list without a realm is exactly the union of the lists of all realms. A page ends early, with a token, when
    /// it has many bytes or takes many steps; then it may be empty.
    ///
    /// # Errors
    /// [`ScopeMissing`](agentrouter_model::Reason::ScopeMissing), `RealmNotAllowed`, `InvalidRequest`,
    /// `PageTokenInvalid`, `AuditUnavailable`, `StoreUnavailable`.
    pub async fn list(&self, ctx: &CallContext, request: ListSecrets<'_>) -> Result<Page, Refusal> {
        self.list_as(ctx, request, |page| page).await
    }

    /// As [`Service::list`], with the page encoded by `write`. The page is encoded before the request waits for its audit
    /// record, while its rows are in the processor's cache, and released after that.
    ///
    /// # Errors
    /// As [`Service::list`].
    pub async fn list_as<T>(
        &self,
        ctx: &CallContext,
        request: ListSecrets<'_>,
        write: impl FnOnce(Page) -> T,
    ) -> Result<T, Refusal> {
        let mut subject = Subject::default();
        let result = self.page(ctx, &request, &mut subject).await.map(write);
        self.release(ctx, Rpc::ListSecrets, &subject, result).await
    }

    async fn page(
        &self,
        ctx: &CallContext,
        request: &ListSecrets<'_>,
        subject: &mut Subject,
    ) -> Result<Page, Refusal> {
        ctx.caller.may(Rpc::ListSecrets)?;
        let grant = ctx.caller.grant();
        let mut query = check(grant, request, self.clock.now(), subject)?;
        let tokens = PageTokens::new(&self.page_tokens, grant, request, &query.tags);
        if !request.page_token.is_empty() {
            query.after = Some(tokens.read(request.page_token)?);
        }

        // One row more than the page shows whether there is a next page.
        let size = query.limit as usize;
        query.limit += 1;
        query.bytes = self.settings.list_bytes;
        query.steps = self.settings.list_steps;
        let listed = read_for_caller(self.store.list(&query)).await?;
        let (mut secrets, stopped) = (listed.rows, listed.stopped);
        let more = secrets.len() > size;
        secrets.truncate(size);
        let next = match secrets.last() {
            Some(last) if more => Some(PageCursor::of(last)),
            _ => stopped,
        };
        let next_page_token = next.map_or_else(String::new, |next| tokens.write(&next));
        Ok(Page { secrets, next_page_token })
    }
}

fn check(
    grant: Grant<'_>,
    request: &ListSecrets<'_>,
    now: Timestamp,
    subject: &mut Subject,
) -> Result<ListQuery, Refusal> {
    // A list without a realm is recorded under the caller, though it may include secrets of `system`.
    subject.owner = Some(grant.user.clone());
    let mut checks = Checks::new(grant, subject);
    let realm = if request.realm.is_empty() { None } else { checks.realm(request.realm)? };
    let statuses = match request.status {
        "" | "active" => StatusFilter::Active,
        "rotated_pending" => StatusFilter::RotatedPending,
        "retired" => StatusFilter::Retired,
        "any" => StatusFilter::Any,
        _ => {
            checks.violation("status", "must be active, rotated_pending, retired or any");
            StatusFilter::Active
        }
    };
    let tags = checks.field("tags", Tags::parse(request.tags.iter().copied()));
    if !is_name_prefix(request.name_prefix) {
        checks.violation("name_prefix", "must be at most 255 characters of A-Z a-z 0-9 . _ -");
    }
    if request.page_size < 0 {
        checks.violation("page_size", "must not be negative");
    }
    let limit = match u32::try_from(request.page_size) {
        Ok(0) | Err(_) => PAGE_SIZE_DEFAULT,
        Ok(size) => size.min(PAGE_SIZE_MAX),
    };
    let scopes = scopes(grant, realm);
    let name_prefix = (!request.name_prefix.is_empty()).then(|| request.name_prefix.to_owned());
    checks.finish(tags.map(|tags| ListQuery {
        scopes,
        statuses,
        tags,
        name_prefix,
        after: None,
        limit,
        bytes: usize::MAX,
        steps: usize::MAX,
        now,
    }))
}

/// The scopes of a list. In one realm: the secrets of the realm's owner. In all realms: the caller's own and, in the LLM
/// realms, those of `system`. A key that is limited to realms lists those realms only.
fn scopes(grant: Grant<'_>, realm: Option<Realm>) -> Vec<ListScope> {
    let owner_in = |realm: &Realm| if realm.is_llm() { Owner::System } else { grant.user.clone() };
    let one = |realm: Realm| ListScope { owner: owner_in(&realm), realms: Realms::Only(vec![realm]) };
    match (realm, grant.realms) {
        (Some(realm), _) => vec![one(realm)],
        (None, Some(realms)) => {
            let mut realms = realms.to_vec();
            realms.sort();
            realms.dedup();
            realms.into_iter().map(one).collect()
        }
        (None, None) => {
            let own = ListScope { owner: grant.user.clone(), realms: Realms::All };
            let llm = Realm::LLM.into_iter().filter_map(|realm| Realm::parse(realm).ok()).collect();
            let shared = ListScope { owner: Owner::System, realms: Realms::Only(llm) };
            if grant.user.is_system() { vec![own] } else { vec![own, shared] }
        }
    }
}

fn is_name_prefix(text: &str) -> bool {
    text.len() <= NAME_BYTES
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

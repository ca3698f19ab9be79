//! Tags without a key, for a store in a test: every row of a secret or version must have its tag, and every API key is
//! admitted.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use agentrouter_model::{ApiKeyId, ApiKeyRecord, Secret, Slot, Status, Timestamp, Version};

use crate::row_tags::{Admission, KeyChange, RowTag};
use crate::{RowTags, StoreError};

/// See the module.
#[derive(Debug)]
pub(super) struct SampleTags;

/// The tag of the fields that `hash` adds.
fn tag(hash: impl Fn(&mut DefaultHasher)) -> RowTag {
    let half = |number: u8| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(number);
        hash(&mut hasher);
        hasher.finish()
    };
    ((u128::from(half(0)) << 64) | u128::from(half(1))).to_be_bytes()
}

impl RowTags for SampleTags {
    fn revise(&self, _manifest: Option<&str>, _change: KeyChange<'_>) -> Result<Option<String>, StoreError> {
        Ok(None)
    }

    fn note(&self, _manifest: Option<&str>) -> Admission {
        Admission::Admitted
    }

    fn admit(&self, _manifest: Option<&str>, _key: &ApiKeyRecord) -> Admission {
        Admission::Admitted
    }

    fn listed(&self, _manifest: Option<&str>) -> Vec<ApiKeyId> {
        Vec::new()
    }

    fn requires_tags(&self) -> bool {
        true
    }

    fn secret_tag(&self, secret: &Secret, active: Version) -> RowTag {
        let times = [Some(secret.created_at), Some(secret.updated_at), secret.rotated_at];
        tag(|hasher| {
            (&secret.place, secret.id, secret.description.as_str(), &secret.tags).hash(hasher);
            (active.get(), times.map(|at| at.map(Timestamp::as_micros))).hash(hasher);
        })
    }

    fn secret_tags(&self, secrets: &[Secret], tag: &mut dyn FnMut(RowTag)) {
        secrets.iter().for_each(|secret| tag(self.secret_tag(secret, secret.version)));
    }

    fn version_tag(
        &self,
        Slot { place, id, version }: Slot<'_>,
        status: Status,
        expires_at: Option<Timestamp>,
    ) -> RowTag {
        let expires_at = expires_at.map(Timestamp::as_micros);
        tag(|hasher| (place, id, version.get(), status, expires_at).hash(hasher))
    }

    fn fact_tag(&self, name: &str, text: &str) -> Result<RowTag, StoreError> {
        Ok(tag(|hasher| (name, text).hash(hasher)))
    }

    fn are_equal(&self, tag: &RowTag, stored: Option<&[u8]>) -> bool {
        stored == Some(&tag[..])
    }

    fn count_refusal(&self) {}

    fn refusals(&self) -> u64 {
        0
    }
}

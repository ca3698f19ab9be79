//! Conversion from wire request views to the model's requests, for Connect, gRPC and gRPC-Web. All texts are borrowed from
//! the request's buffer.

use agentrouter_model::rpc;

use crate::wire::agentrouter::secret::v1 as wire;

/// The pairs of a map field, in their order on the wire. Of two pairs with the same key the model uses the last one, as proto3
/// requires.
fn pairs<'a>(tags: &'a buffa::MapView<'_, &'a str, &'a str>) -> Vec<(&'a str, &'a str)> {
    tags.iter().copied().collect()
}

impl<'a> From<&'a wire::CreateSecretRequestView<'a>> for rpc::CreateSecret<'a> {
    fn from(request: &'a wire::CreateSecretRequestView<'a>) -> Self {
        Self {
            name: request.name,
            realm: request.realm,
            description: request.description,
            value: request.value,
            tags: pairs(&request.tags),
            user_id: request.user_id,
            expected_version: request.expected_version,
            update_mask: request.update_mask.as_option().map(|mask| mask.paths.iter().copied().collect()),
        }
    }
}

impl<'a> From<&'a wire::GetSecretRequestView<'a>> for rpc::GetSecret<'a> {
    fn from(request: &'a wire::GetSecretRequestView<'a>) -> Self {
        Self { name: request.name, realm: request.realm }
    }
}

impl<'a> From<&'a wire::ListSecretsRequestView<'a>> for rpc::ListSecrets<'a> {
    fn from(request: &'a wire::ListSecretsRequestView<'a>) -> Self {
        Self {
            realm: request.realm,
            status: request.status,
            tags: pairs(&request.tags),
            page_size: request.page_size,
            page_token: request.page_token,
            name_prefix: request.name_prefix,
        }
    }
}

impl<'a> From<&'a wire::DeleteSecretRequestView<'a>> for rpc::DeleteSecret<'a> {
    fn from(request: &'a wire::DeleteSecretRequestView<'a>) -> Self {
        Self { name: request.name, realm: request.realm }
    }
}

impl<'a> From<&'a wire::RotateSecretRequestView<'a>> for rpc::RotateSecret<'a> {
    fn from(request: &'a wire::RotateSecretRequestView<'a>) -> Self {
        Self {
            name: request.name,
            realm: request.realm,
            new_value: request.new_value,
            expected_version: request.expected_version,
            grace_period: request.grace_period.as_option().map(|grace| (grace.seconds, grace.nanos)),
        }
    }
}

impl<'a> From<&'a wire::ValidateSecretRequestView<'a>> for rpc::ValidateSecret<'a> {
    fn from(request: &'a wire::ValidateSecretRequestView<'a>) -> Self {
        Self { name: request.name, realm: request.realm }
    }
}

impl<'a> From<&'a wire::GetSecretValueRequestView<'a>> for rpc::GetSecretValue<'a> {
    fn from(request: &'a wire::GetSecretValueRequestView<'a>) -> Self {
        Self { name: request.name, realm: request.realm, user_id: request.user_id, version: request.version }
    }
}

#[cfg(test)]
mod tests {
    use buffa::{Message, MessageField, MessageView};
    use buffa_types::google::protobuf::{Duration, FieldMask};

    use super::*;

    #[test]
    fn every_field_of_a_create_request_is_converted() {
        let request = wire::CreateSecretRequest {
            name: "n".into(),
            realm: "r".into(),
            description: "d".into(),
            value: "v".into(),
            tags: [("k".into(), "t".into())].into_iter().collect(),
            user_id: "u".into(),
            expected_version: Some(0),
            update_mask: MessageField::some(FieldMask {
                paths: vec!["value".into(), "tags".into()],
                ..Default::default()
            }),
        };
        let bytes = request.encode_to_vec();
        let view = wire::CreateSecretRequestView::decode_view(&bytes).expect("just encoded");
        let call = rpc::CreateSecret::from(&view);
        assert_eq!((call.name, call.realm, call.description, call.value), ("n", "r", "d", "v"));
        assert_eq!((call.tags, call.user_id), (vec![("k", "t")], "u"));
        assert_eq!(call.expected_version, Some(0));
        assert_eq!(call.update_mask, Some(vec!["value", "tags"]));
    }

    #[test]
    fn an_unset_field_differs_from_zero() {
        let bytes = wire::RotateSecretRequest::default().encode_to_vec();
        let view = wire::RotateSecretRequestView::decode_view(&bytes).expect("empty");
        let call = rpc::RotateSecret::from(&view);
        assert_eq!((call.expected_version, call.grace_period), (None, None));

        let bytes = wire::RotateSecretRequest {
            expected_version: Some(0),
            grace_period: MessageField::some(Duration { seconds: 0, nanos: 0, ..Default::default() }),
            ..Default::default()
        }
        .encode_to_vec();
        let view = wire::RotateSecretRequestView::decode_view(&bytes).expect("just encoded");
        let call = rpc::RotateSecret::from(&view);
        assert_eq!((call.expected_version, call.grace_period), (Some(0), Some((0, 0))));
    }
}

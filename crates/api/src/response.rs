//! Encoding of the model's results as wire responses, for Connect, gRPC and gRPC-Web.
//!
//! The binary form is encoded from a view that borrows from the model, into one buffer of exactly its size. A buffer that
//! holds a plaintext is wiped when its last reader drops it. Copies that the transport makes of it are not wiped.

use std::borrow::Borrow;

use agentrouter_model::rpc::{Page, Revealed, Validation};
use agentrouter_model::{Secret, Timestamp};
use buffa::bytes::Bytes;
use buffa::{MapView, MessageFieldView, MessageView, RepeatedView, SizeCache, ViewEncode};
use buffa_types::google::protobuf::__buffa::view::TimestampView;
use connectrpc::{CodecFormat, ConnectError, Encodable};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::error;
use crate::rest::response::value_document;
use crate::wire::agentrouter::secret::v1 as wire;

/// A result of the model that encodes as the body of a response.
///
/// The types by RPC: a [`Secret`] (or an `Arc` of one) for Create, Get and Rotate, a [`Page`] for List, `()` for Delete, a
/// [`Validation`] for Validate, a [`Revealed`] for GetSecretValue.
#[derive(Clone, Debug)]
pub struct WireResponse<T>(pub T);

macro_rules! secret_response {
    ($($message:ident, $view:ident;)*) => {$(
        impl<S: Borrow<Secret>> Encodable<wire::$message> for WireResponse<S> {
            fn encode(&self, codec: CodecFormat) -> Result<Bytes, ConnectError> {
                let id = self.0.borrow().id.to_string();
                let secret = MessageFieldView::some(secret_view(self.0.borrow(), &id));
                encode(&wire::$view { secret }, codec)
            }
        }
    )*};
}

secret_response! {
    CreateSecretResponse, CreateSecretResponseView;
    GetSecretResponse, GetSecretResponseView;
    RotateSecretResponse, RotateSecretResponseView;
}

impl Encodable<wire::ListSecretsResponse> for WireResponse<Page> {
    fn encode(&self, codec: CodecFormat) -> Result<Bytes, ConnectError> {
        let ids: Vec<String> = self.0.secrets.iter().map(|secret| secret.id.to_string()).collect();
        let secrets = self.0.secrets.iter().zip(&ids).map(|(secret, id)| secret_view(secret, id)).collect();
        let view = wire::ListSecretsResponseView {
            secrets: RepeatedView::new(secrets),
            next_page_token: &self.0.next_page_token,
        };
        encode(&view, codec)
    }
}

impl Encodable<wire::DeleteSecretResponse> for WireResponse<()> {
    fn encode(&self, codec: CodecFormat) -> Result<Bytes, ConnectError> {
        encode(&wire::DeleteSecretResponseView { success: true, ..Default::default() }, codec)
    }
}

impl Encodable<wire::ValidateSecretResponse> for WireResponse<Validation> {
    fn encode(&self, codec: CodecFormat) -> Result<Bytes, ConnectError> {
        let Validation { valid, error } = &self.0;
        encode(&wire::ValidateSecretResponseView { valid: *valid, error }, codec)
    }
}

impl Encodable<wire::GetSecretValueResponse> for WireResponse<Revealed> {
    fn encode(&self, codec: CodecFormat) -> Result<Bytes, ConnectError> {
        let Revealed { value, secret } = &self.0;
        let id = secret.id.to_string();
        let secret = secret_view(secret, &id);
        if codec == CodecFormat::Json {
            return Ok(value_document(value, &json(&secret)?));
        }
        let view = wire::GetSecretValueResponseView {
            value: value.expose(),
            secret: MessageFieldView::some(secret),
        };
        Ok(Bytes::from_owner(Zeroizing::new(binary(&view))))
    }
}

fn encode<'a, V>(view: &V, codec: CodecFormat) -> Result<Bytes, ConnectError>
where
    V: ViewEncode<'a>,
    V::Owned: Serialize,
{
    match codec {
        CodecFormat::Json => json(view).map(Bytes::from),
        _ => Ok(Bytes::from(binary(view))),
    }
}

/// Encodes into one buffer that never reallocates, so that no copy of a plaintext remains.
fn binary<'a>(view: &impl ViewEncode<'a>) -> Vec<u8> {
    let mut cache = SizeCache::new();
    let size = view.compute_size(&mut cache);
    let mut bytes = Vec::with_capacity(size as usize);
    view.write_to(&mut cache, &mut bytes);
    bytes
}

fn json<'a, V>(view: &V) -> Result<Vec<u8>, ConnectError>
where
    V: MessageView<'a>,
    V::Owned: Serialize,
{
    let owned = view.to_owned_message().map_err(|_| error::internal())?;
    serde_json::to_vec(&owned).map_err(|_| error::internal())
}

fn secret_view<'a>(secret: &'a Secret, id: &'a str) -> wire::SecretView<'a> {
    let optional = |at: Option<Timestamp>| at.map(timestamp).unwrap_or_default();
    wire::SecretView {
        id,
        name: secret.place.name.as_str(),
        realm: secret.place.realm.as_str(),
        user_id: secret.place.owner.as_str(),
        description: secret.description.as_str(),
        tags: MapView::new(secret.tags.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()),
        status: secret.status.as_str(),
        version: secret.version.get(),
        created_at: timestamp(secret.created_at),
        updated_at: timestamp(secret.updated_at),
        rotated_at: optional(secret.rotated_at),
        expires_at: optional(secret.expires_at),
        kek_id: secret.kek_id.as_str(),
    }
}

fn timestamp<'a>(at: Timestamp) -> MessageFieldView<TimestampView<'a>> {
    let (seconds, nanos) = at.as_seconds_and_nanos();
    MessageFieldView::some(TimestampView { seconds, nanos, ..Default::default() })
}

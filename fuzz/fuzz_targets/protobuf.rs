//! The protobuf body of each RPC.
//!
//! `0` to `6` selects the RPC in the order of the proto. A message that decodes is encoded to one that decodes to the same.
#![no_main]

use agentrouter_api::wire::agentrouter::secret::v1 as wire;
use agentrouter_fuzz::select;
use agentrouter_model::rpc;
use buffa::{Message, MessageView as _};
use libfuzzer_sys::fuzz_target;

macro_rules! check {
    ($body:expr, $view:ident, $message:ident, $call:ident) => {{
        if let Ok(view) = wire::$view::decode_view($body) {
            let _: rpc::$call<'_> = (&view).into();
        }
        if let Ok(message) = wire::$message::decode_from_slice($body) {
            let again = wire::$message::decode_from_slice(&message.encode_to_vec());
            assert!(again.is_ok_and(|again| again == message), "encoding a message changes it");
        }
    }};
}

fuzz_target!(|input: &[u8]| match select(input) {
    Some((b'0', body)) => check!(body, CreateSecretRequestView, CreateSecretRequest, CreateSecret),
    Some((b'1', body)) => check!(body, GetSecretRequestView, GetSecretRequest, GetSecret),
    Some((b'2', body)) => check!(body, ListSecretsRequestView, ListSecretsRequest, ListSecrets),
    Some((b'3', body)) => check!(body, DeleteSecretRequestView, DeleteSecretRequest, DeleteSecret),
    Some((b'4', body)) => check!(body, RotateSecretRequestView, RotateSecretRequest, RotateSecret),
    Some((b'5', body)) => check!(body, ValidateSecretRequestView, ValidateSecretRequest, ValidateSecret),
    Some((b'6', body)) => check!(body, GetSecretValueRequestView, GetSecretValueRequest, GetSecretValue),
    _ => {}
});

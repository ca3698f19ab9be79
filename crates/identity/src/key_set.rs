//! The public keys of an issuer: a JSON Web Key Set (RFC 7517).

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// Most keys of a set.
const KEYS: usize = 200;

/// The keys that verify signatures.
#[derive(Debug, Default)]
pub(crate) struct KeySet(Vec<PublicKey>);

#[derive(Debug, PartialEq, Eq)]
struct PublicKey {
    jwk: Jwk,
}

/// The document is no key set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeySetError {
    #[error("it is not a JSON Web Key Set (RFC 7517)")]
    Malformed,
    #[error("it has more than {KEYS} keys")]
    TooMany,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// Whether no key is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads a set, possibly of no key: the issuer accepts no token then. Keys that are not for signatures, symmetric keys and keys of unknown types are left out.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        let document: Document = serde_json::from_slice(text).map_err(|_| KeySetError::Malformed)?;
        if document.keys.len() > KEYS {
            return Err(KeySetError::TooMany);
        }
        let keys = document.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
        Ok(Self(keys.filter(is_for_signatures).map(|jwk| PublicKey { jwk }).collect()))
    }

    /// The key with the id of a token's header. A token without an id is verified if the set has one key for its algorithm.
    pub(crate) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<DecodingKey> {
        let mut fitting = self
            .0
            .iter()
            .map(|key| &key.jwk)
            .filter(|jwk| fits(jwk, algorithm) && (id.is_none() || jwk.common.key_id.as_deref() == id));
        let found = fitting.next()?;
        if id.is_none() && fitting.next().is_some() {
            return None;
        }
        DecodingKey::from_jwk(found).ok()
    }

    /// Whether both sets have the same keys.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

fn is_for_signatures(jwk: &Jwk) -> bool {
    let is_public = matches!(
        jwk.algorithm,
        AlgorithmParameters::RSA(_)
            | AlgorithmParameters::EllipticCurve(_)
            | AlgorithmParameters::OctetKeyPair(_)
    );
    let is_use = match &jwk.common.public_key_use {
        None | Some(PublicKeyUse::Signature) => true,
        // In a trust bundle of SPIFFE.
        Some(PublicKeyUse::Other(used)) => used == "jwt-svid",
        Some(PublicKeyUse::Encryption) => false,
    };
    let operations = jwk.common.key_operations.as_ref();
    is_public && is_use && operations.is_none_or(|all| all.contains(&KeyOperations::Verify))
}

/// Whether the key may verify this algorithm: its type and curve, and the algorithm that it names.
fn fits(jwk: &Jwk, algorithm: Algorithm) -> bool {
    let is_named = jwk.common.key_algorithm.is_none_or(|named| named.to_string() == format!("{algorithm:?}"));
    let is_type = match (&jwk.algorithm, algorithm) {
        (
            AlgorithmParameters::RSA(_),
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512,
        ) => true,
        (AlgorithmParameters::EllipticCurve(key), Algorithm::ES256) => key.curve == EllipticCurve::P256,
        (AlgorithmParameters::EllipticCurve(key), Algorithm::ES384) => key.curve == EllipticCurve::P384,
        (AlgorithmParameters::OctetKeyPair(key), Algorithm::EdDSA) => key.curve == EllipticCurve::Ed25519,
        _ => false,
    };
    is_named && is_type
}

#[cfg(test)]
mod tests {
    use super::*;

    const EC: &str = r#"{"kty":"EC","crv":"P-256","kid":"a","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

    fn set(keys: &[&str]) -> Result<KeySet, KeySetError> {
        KeySet::parse(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes())
    }

    #[test]
    fn keys_that_verify_nothing_are_left_out() {
        assert_eq!(KeySet::parse(b"[]").err(), Some(KeySetError::Malformed));
        let with = |used: &str| EC.replace("\"kid\"", &format!("\"use\":\"{used}\",\"kid\""));
        for none in [
            vec![],
            vec![r#"{"kty":"oct","k":"AAAA","kid":"a"}"#],
            vec![r#"{"kty":"XYZ","kid":"a"}"#],
            vec![&*with("enc")],
            vec![&*with("x509-svid")],
        ] {
            assert!(set(&none).expect("a set").is_empty(), "{none:?}");
        }
        assert!(!set(&[&with("jwt-svid")]).expect("a set").is_empty());
        assert!(!set(&[r#"{"kty":"XYZ"}"#, EC]).expect("a set").is_empty());
        assert_eq!(set(&[EC; KEYS + 1]).err(), Some(KeySetError::TooMany));
    }

    #[test]
    fn a_key_is_found_by_its_id_for_its_own_algorithm() {
        let one = set(&[EC]).expect("a set");
        assert!(one.find(Some("a"), Algorithm::ES256).is_some());
        assert!(one.find(None, Algorithm::ES256).is_some());
        assert!(one.find(Some("b"), Algorithm::ES256).is_none());
        for other in [Algorithm::ES384, Algorithm::RS256, Algorithm::HS256, Algorithm::EdDSA] {
            assert!(one.find(Some("a"), other).is_none(), "{other:?}");
        }
        let two = set(&[EC, &EC.replace("\"a\"", "\"b\"")]).expect("a set");
        assert!(two.find(None, Algorithm::ES256).is_none(), "which one is meant is unknown");
        let named = set(&[&EC.replace("\"kid\"", "\"alg\":\"ES384\",\"kid\"")]).expect("a set");
        assert!(named.find(Some("a"), Algorithm::ES256).is_none());
    }
}

//! The key of a Google service account, and access tokens for it (RFC 7523).
//!
//! A JWT that the key has signed is exchanged for a token at the `token_uri` of the file. The exchange refuses a key that is
//! deleted and an account that is disabled, which is a denial. A token is used until shortly before its end. If the exchange
//! cannot be reached then, the token is used until its end.
//!
//! The file is read for each exchange, so it can be replaced by that of another key.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use agentrouter_model::{Clock as _, SystemClock};
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use google_cloud_auth::credentials::service_account::Builder;
use google_cloud_auth::signer::Signer;
use http::header::CONTENT_TYPE;
use reqwest::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::identity::SCOPE;
use crate::root::{Kind, RootError};
use crate::{endpoint, http as client};

/// The life of a JWT. Google allows an hour.
const LIFE: i64 = 600;
/// What the clock of this machine may be ahead of Google's, in seconds.
const SKEW: i64 = 10;
/// The longest time before the end of a token at which another one is obtained. It is at most a quarter of its life.
const EARLY: Duration = Duration::from_secs(240);
/// The longest time for which a token is used.
const LONGEST: Duration = Duration::from_secs(12 * 60 * 60);

/// A service account with a key in a file.
#[derive(Debug)]
pub(super) struct Account {
    path: PathBuf,
    client: Client,
    token: Mutex<Option<Token>>,
    /// The number of calls of [`Account::renew`].
    renewals: std::sync::Mutex<u64>,
}

struct Token {
    text: Zeroizing<String>,
    /// From when on another one is obtained.
    aged: Instant,
    expires: Instant,
    /// The number of calls of [`Account::renew`] before it was obtained.
    renewals: u64,
}

/// What is used of the file.
#[derive(Deserialize)]
struct Key {
    client_email: String,
    private_key_id: String,
    token_uri: String,
}

#[derive(Deserialize)]
struct Issued {
    access_token: String,
    expires_in: u64,
}

impl Account {
    /// The account whose key is in this file.
    ///
    /// # Errors
    /// When the file has no key, or its `token_uri` has no TLS and is not on this machine.
    pub(super) fn open(path: PathBuf) -> anyhow::Result<Self> {
        let account = Self {
            path,
            client: client::client(None)?,
            token: Mutex::default(),
            renewals: std::sync::Mutex::default(),
        };
        account.key().context("the file with the Google credentials has no key of a service account")?;
        Ok(account)
    }

    /// Drops the token.
    pub(super) fn renew(&self) {
        *self.renewals.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    /// A token that has not expired.
    pub(super) async fn token(&self) -> Result<Zeroizing<String>, RootError> {
        let renewals = *self.renewals.lock().unwrap_or_else(PoisonError::into_inner);
        let mut slot = self.token.lock().await;
        let now = Instant::now();
        let usable = slot.take().filter(|token| token.renewals == renewals && now < token.expires);
        let token = match usable {
            Some(token) if now < token.aged => token,
            // A denial is one at once, although Google may still take the token.
            Some(token) => match self.exchange(renewals).await {
                Err(error) if error.kind == Kind::Unreachable => token,
                exchanged => exchanged?,
            },
            None => self.exchange(renewals).await?,
        };
        Ok(slot.insert(token).text.clone())
    }

    async fn exchange(&self, renewals: u64) -> Result<Token, RootError> {
        // An agent may be about to write the file.
        let (key, signer) = self
            .key()
            .map_err(|_| RootError::unreachable("the file with the Google credentials has no key"))?;
        let jwt = Self::jwt(&key, &signer).await?;
        let form =
            format!("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={jwt}");
        let asked = Instant::now();
        let request = self.client.post(&key.token_uri);
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
        let reply = client::send(request).await?;
        match reply.status {
            200 => {}
            // The errors of OAuth 2.0: invalid_grant, invalid_client, unauthorized_client.
            400 | 401 | 403 => {
                return Err(RootError::denied("Google issues no token for the service account"));
            }
            status => {
                return Err(RootError::unreachable(format!(
                    "the issuer of tokens responded with status {status}"
                )));
            }
        }
        let issued: Issued = reply.json()?;
        let life = Duration::from_secs(issued.expires_in).min(LONGEST);
        let expires = asked + life;
        Ok(Token {
            text: Zeroizing::new(issued.access_token),
            aged: expires - EARLY.min(life / 4),
            expires,
            renewals,
        })
    }

    fn key(&self) -> anyhow::Result<(Key, Signer)> {
        let text = Zeroizing::new(std::fs::read(&self.path)?);
        let json: Value = serde_json::from_slice(&text)?;
        let key = Key::deserialize(&json)?;
        endpoint::check(&key.token_uri)?;
        Ok((key, Builder::new(json).build_signer()?))
    }

    async fn jwt(key: &Key, signer: &Signer) -> Result<String, RootError> {
        let now = SystemClock.now().as_micros() / 1_000_000 - SKEW;
        let head = json!({ "alg": "RS256", "typ": "JWT", "kid": key.private_key_id });
        let claims = json!({
            "iss": key.client_email,
            "scope": SCOPE,
            "aud": key.token_uri,
            "iat": now,
            "exp": now + LIFE,
        });
        let encoded = |part: Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encoded(head), encoded(claims));
        let signature = signer.sign(&signed).await;
        let signature =
            signature.map_err(|_| RootError::unusable("the key of the service account signs nothing"))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

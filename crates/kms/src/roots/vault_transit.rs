//! The Transit secrets engine of HashiCorp Vault and OpenBao.
//!
//! Encrypt and Decrypt are one request each, with [`PURPOSE`] as `associated_data`. The ciphertext is Transit's text
//! (`vault:v3:…`), which names the version of the key. Status reads the key. A failed request is followed by one that reads
//! the key, because Transit has the same status for a missing permission and a missing key.
//!
//! A task renews the token while it can be renewed. Otherwise a token of limited life would end in a denial.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Client, Method};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::endpoint;
use crate::http::{self, Reply};
use crate::root::{Encrypted, Kind, PURPOSE, Plaintext, Root, RootError};

/// The mount of the engine, unless the key names another one.
const MOUNT: &str = "transit";
/// The address without a setting.
const DEFAULT: &str = "https://127.0.0.1:8200";
/// The types of keys that take associated data.
const TYPES: &[&str] = &["aes128-gcm96", "aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305"];
/// The shortest and the longest time between two renewals of the token.
const RENEWAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60 * 60));

/// A key of a Transit engine.
#[derive(Clone)]
pub(crate) struct Transit {
    client: Client,
    address: String,
    mount: String,
    name: String,
    namespace: Option<String>,
    token: Token,
}

/// Where the token is. The file is read for each request, because an agent may replace it.
#[derive(Clone)]
enum Token {
    Given(Zeroizing<String>),
    File(PathBuf),
}

impl Transit {
    /// The key `MOUNT/NAME`, or `NAME` of the mount `transit`, with the environment of the `vault` and `bao` commands.
    ///
    /// # Errors
    /// When the key, the address or the certificates are invalid.
    pub(crate) fn open(key: &str, url: Option<&str>) -> anyhow::Result<Self> {
        let (mount, name) = split(key)?;
        let address = url.map(str::to_owned).or_else(|| environment("ADDR"));
        let address = address.unwrap_or_else(|| DEFAULT.to_owned());
        endpoint::check(&address)?;
        let token = match environment("TOKEN") {
            Some(token) => Token::Given(Zeroizing::new(token)),
            None => Token::File(
                std::env::home_dir()
                    .context("there is neither VAULT_TOKEN nor a home directory")?
                    .join(".vault-token"),
            ),
        };
        let transit = Self {
            client: http::client(environment("CACERT").as_deref())?,
            address,
            mount: mount.to_owned(),
            name: name.to_owned(),
            namespace: environment("NAMESPACE"),
            token,
        };
        tokio::spawn(keep_token(transit.clone()));
        Ok(transit)
    }

    /// Sends a request to `path`.
    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Reply, RootError> {
        let url = format!("{}/v1/{path}", self.address.trim_end_matches('/'));
        let mut request = self
            .client
            .request(method, url)
            .header("X-Vault-Request", "true")
            .header("X-Vault-Token", self.token.read().await?.as_str());
        if let Some(namespace) = &self.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        http::send(request).await
    }

    /// Reads the key. Fails if it cannot encrypt with associated data.
    async fn key(&self) -> Result<Key, RootError> {
        let reply = self.call(Method::GET, &format!("{}/keys/{}", self.mount, self.name), None).await?;
        if reply.status != 200 {
            return Err(refusal(reply.status));
        }
        let key = reply.json::<Data<Key>>()?.data;
        if key.soft_deleted {
            return Err(RootError::unusable("the key is deleted"));
        }
        if key.derived || !TYPES.contains(&key.kind.as_str()) {
            return Err(RootError::unusable("the key must have type aes256-gcm96 and no derivation"));
        }
        Ok(key)
    }

    async fn operate<T: for<'de> Deserialize<'de>>(
        &self,
        what: &str,
        mut body: Value,
    ) -> Result<T, RootError> {
        body["associated_data"] = STANDARD.encode(PURPOSE).into();
        let reply =
            self.call(Method::POST, &format!("{}/{what}/{}", self.mount, self.name), Some(&body)).await?;
        match reply.status {
            200 => Ok(reply.json::<Data<T>>()?.data),
            400 | 403 | 404 => Err(self.explain(reply.status).await),
            status => Err(refusal(status)),
        }
    }

    /// Why a request about the key had the response `status`.
    async fn explain(&self, status: u16) -> RootError {
        match self.key().await {
            Err(error) if error.kind == Kind::Unusable => error,
            _ if status == 400 => RootError::ciphertext(),
            _ => refusal(status),
        }
    }
}

#[async_trait]
impl Root for Transit {
    async fn status(&self) -> Result<String, RootError> {
        Ok(self.id(self.key().await?.latest_version))
    }

    async fn encrypt(&self, plaintext: &[u8]) -> Result<Encrypted, RootError> {
        let encrypted: Ciphertext =
            self.operate("encrypt", json!({ "plaintext": STANDARD.encode(plaintext) })).await?;
        let version = version(&encrypted.ciphertext).ok_or_else(RootError::garbled)?;
        Ok(Encrypted { key_id: self.id(version), ciphertext: encrypted.ciphertext.into_bytes() })
    }

    async fn decrypt(&self, _key_id: &str, ciphertext: &[u8]) -> Result<Plaintext, RootError> {
        let text = std::str::from_utf8(ciphertext).map_err(|_| RootError::ciphertext())?;
        let wanted = version(text).ok_or_else(RootError::ciphertext)?;
        let decrypted: Decrypted = match self.operate("decrypt", json!({ "ciphertext": text })).await {
            // Transit has one status for a changed ciphertext and for a version that it no longer decrypts.
            Err(error) if error.kind == Kind::Ciphertext => {
                let archived = self.key().await.is_ok_and(|key| wanted < key.min_decryption_version);
                return Err(if archived {
                    RootError::unusable("the version of the key is below its min_decryption_version")
                } else {
                    error
                });
            }
            result => result?,
        };
        let encoded = Zeroizing::new(decrypted.plaintext);
        Ok(Zeroizing::new(STANDARD.decode(encoded.as_bytes()).map_err(|_| RootError::garbled())?))
    }
}

impl Transit {
    fn id(&self, version: u64) -> String {
        format!("{}/{}:v{version}", self.mount, self.name)
    }
}

impl Token {
    async fn read(&self) -> Result<Zeroizing<String>, RootError> {
        match self {
            Self::Given(token) => Ok(token.clone()),
            Self::File(path) => {
                let text = tokio::fs::read_to_string(path).await.map(Zeroizing::new);
                // Without a token nothing was refused: an agent may be about to write it.
                let text = text.map_err(|_| RootError::unreachable("there is no Vault token"))?;
                Ok(Zeroizing::new(text.trim().to_owned()))
            }
        }
    }
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

#[derive(Deserialize)]
struct Key {
    #[serde(rename = "type")]
    kind: String,
    latest_version: u64,
    #[serde(default)]
    min_decryption_version: u64,
    #[serde(default)]
    derived: bool,
    #[serde(default)]
    soft_deleted: bool,
}

#[derive(Deserialize)]
struct Ciphertext {
    ciphertext: String,
}

#[derive(Deserialize)]
struct Decrypted {
    plaintext: String,
}

#[derive(Deserialize)]
struct Lease {
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

/// Renews the token at half of its life, for as long as it can be renewed.
async fn keep_token(transit: Transit) {
    loop {
        let lease = match transit.call(Method::GET, "auth/token/lookup-self", None).await {
            Ok(reply) if reply.status == 200 => reply.json::<Data<Lease>>().ok().map(|found| found.data),
            _ => None,
        };
        match lease {
            // A root token lives forever. A token in a file may be replaced by one that does not.
            Some(Lease { ttl: 0, .. } | Lease { renewable: false, .. }) => {
                tokio::time::sleep(RENEWAL.1).await
            }
            Some(Lease { ttl, .. }) => {
                tokio::time::sleep(Duration::from_secs(ttl / 2).clamp(RENEWAL.0, RENEWAL.1)).await;
                let renewed = transit.call(Method::POST, "auth/token/renew-self", Some(&json!({}))).await;
                if !renewed.is_ok_and(|reply| reply.status == 200) {
                    tracing::warn!("the Vault token could not be renewed");
                }
            }
            None => tokio::time::sleep(RENEWAL.0 * 10).await,
        }
    }
}

/// A variable of the `vault` command, or the same one of the `bao` command.
fn environment(name: &str) -> Option<String> {
    ["VAULT", "BAO"]
        .iter()
        .filter_map(|prefix| std::env::var(format!("{prefix}_{name}")).ok())
        .find(|value| !value.is_empty())
}

/// Mount and name of a key.
fn split(key: &str) -> anyhow::Result<(&str, &str)> {
    let (mount, name) = key.rsplit_once('/').unwrap_or((MOUNT, key));
    let plain = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        part.chars().all(allowed) && !part.chars().all(|c| c == '.')
    };
    let valid = mount.split('/').chain([name]).all(plain);
    ensure!(valid, "the key must be NAME or MOUNT/NAME, of letters, digits, '-', '_' and '.'");
    Ok((mount, name))
}

/// The version of the key in a ciphertext of Transit.
fn version(ciphertext: &str) -> Option<u64> {
    let (version, data) = ciphertext.strip_prefix("vault:v")?.split_once(':')?;
    version.parse().ok().filter(|_| !data.is_empty())
}

fn refusal(status: u16) -> RootError {
    match status {
        401 | 403 => RootError::denied("Vault refused the token, or its policy does not allow this"),
        404 => RootError::unusable("Vault has no such key"),
        // 5xx has a sealed server, 429 a rate limit, 412 and 472 a standby that cannot respond yet.
        429 | 412 | 472 | 473 | 500.. => {
            RootError::unreachable(format!("Vault responded with status {status}"))
        }
        // A standby names the active server, to which the token must not go unasked.
        300..=399 => RootError::unreachable("Vault redirects to another server; use the address of that one"),
        _ => RootError::new(Kind::Garbled, format!("Vault responded with status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_a_mount() {
        assert_eq!(split("agentrouter").expect("a name"), ("transit", "agentrouter"));
        assert_eq!(split("team/keys/a-b_c.1").expect("a mount"), ("team/keys", "a-b_c.1"));
        for bad in ["", "/", "a/", "/a", "a//b", "../sys", "transit/..", "a?b", "a b", "ä"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_ciphertext_names_its_version() {
        assert_eq!(version("vault:v12:abc"), Some(12));
        for bad in ["", "vault:v1:", "vault:v1", "vault:vx:abc", "v1:abc"] {
            assert_eq!(version(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_status_tells_a_denial_from_an_outage() {
        let kinds = [403, 404, 429, 473, 503, 307, 418].map(|status| refusal(status).kind);
        use Kind::{Denied, Garbled, Unreachable, Unusable};
        assert_eq!(kinds, [Denied, Unusable, Unreachable, Unreachable, Unreachable, Unreachable, Garbled]);
    }
}

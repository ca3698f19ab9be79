//! The upper bound: `POST /v1/secrets/{name}/value` with axum, and only the work that every read needs.
//!
//! A bearer key is looked up by its SHA-256; the wrapped key of the one secret is opened, and with it the value (two
//! AES-256-GCM opens); both go into JSON of about the size of the server's. There is no storage, no audit, no limit, no
//! metric, no rule, and no key derivation. The difference to the server is the cost of those.
//!
//! `agentrouter-toy ADDRESS KEY` serves until it is killed.

use std::collections::HashSet;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::routing::post;
use serde::{Deserialize, Serialize};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error>;

/// The body of a request.
#[derive(Deserialize)]
struct Question<'a> {
    realm: &'a str,
    user_id: &'a str,
}

/// The body of a response, in the server's form.
#[derive(Serialize)]
struct ValueResponse<'a> {
    value: &'a str,
    secret: Secret<'a>,
}

#[derive(Serialize)]
struct Secret<'a> {
    id: &'a str,
    name: &'a str,
    realm: &'a str,
    user_id: &'a str,
    description: &'a str,
    tags: [(); 0],
    status: &'a str,
    version: i32,
    created_at: &'a str,
    updated_at: &'a str,
    rotated_at: Option<&'a str>,
    expires_at: Option<&'a str>,
    kek_id: &'a str,
}

struct Toy {
    keys: HashSet<Vec<u8>>,
    kek: LessSafeKey,
    wrapped: Vec<u8>,
    sealed: Vec<u8>,
}

impl Toy {
    fn new(key: &str) -> Result<Self, Failure> {
        let kek = aes(&[1; 32])?;
        let dek = [2; 32];
        let wrapped = seal(&kek, &dek)?;
        let sealed = seal(&aes(&dek)?, b"sk-a-provider-key-of-the-usual-length-0123456789")?;
        let keys = [digest(&SHA256, format!("Bearer {key}").as_bytes()).as_ref().to_vec()].into();
        Ok(Self { keys, kek, wrapped, sealed })
    }

    fn respond(&self, name: &str, headers: &HeaderMap, body: &[u8]) -> Result<Vec<u8>, StatusCode> {
        let key = headers.get(header::AUTHORIZATION).ok_or(StatusCode::UNAUTHORIZED)?;
        if !self.keys.contains(digest(&SHA256, key.as_bytes()).as_ref()) {
            return Err(StatusCode::UNAUTHORIZED);
        }
        let question: Question<'_> = serde_json::from_slice(body).map_err(|_| StatusCode::BAD_REQUEST)?;
        let failed = |_: Failure| StatusCode::INTERNAL_SERVER_ERROR;
        let dek = open(&self.kek, &self.wrapped).map_err(failed)?;
        let value = aes(&dek).and_then(|dek| open(&dek, &self.sealed)).map_err(failed)?;
        let secret = Secret {
            id: "01KAXW0000000000000000000",
            name,
            realm: question.realm,
            user_id: question.user_id,
            description: "",
            tags: [],
            status: "active",
            version: 1,
            created_at: "2026-01-01T00:00:00.000000Z",
            updated_at: "2026-01-01T00:00:00.000000Z",
            rotated_at: None,
            expires_at: None,
            kek_id: "kek-20260101-00000000",
        };
        let value = std::str::from_utf8(&value).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        serde_json::to_vec(&ValueResponse { value, secret }).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
    }
}

fn aes(key: &[u8]) -> Result<LessSafeKey, Failure> {
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key)?))
}

fn seal(key: &LessSafeKey, clear: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut sealed = clear.to_vec();
    key.seal_in_place_append_tag(
        Nonce::assume_unique_for_key([0; NONCE_LEN]),
        Aad::from(b"toy"),
        &mut sealed,
    )?;
    Ok(sealed)
}

fn open(key: &LessSafeKey, sealed: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut clear = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
    let length = key.open_in_place(nonce, Aad::from(b"toy"), &mut clear)?.len();
    clear.truncate(length);
    Ok(clear)
}

async fn value(
    State(toy): State<Arc<Toy>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let (status, body) = match toy.respond(&name, &headers, &body) {
        Ok(body) => (StatusCode::OK, body),
        Err(status) => (status, Vec::new()),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(key)) = (arguments.next(), arguments.next()) else {
        return Err("usage: agentrouter-toy ADDRESS KEY".into());
    };
    let app = axum::Router::new()
        .route("/v1/secrets/{name}/value", post(value))
        .with_state(Arc::new(Toy::new(&key)?));
    let listener =
        axum::serve::ListenerExt::tap_io(tokio::net::TcpListener::bind(address).await?, |socket| {
            // As the server does. If it cannot be set, the toy is only slower.
            let _ = socket.set_nodelay(true);
        });
    axum::serve(listener, app).await?;
    Ok(())
}

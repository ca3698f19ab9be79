//! The route of a request, by its path.
//!
//! Paths are matched as they were sent: `..`, `//`, `;` and percent-encoded slashes are not resolved, so no spelling of
//! one path reaches another. Only `{name}` is percent-decoded, once, and then has to be a secret's name.

use std::borrow::Cow;

use agentrouter_api::routes;
use agentrouter_model::{Reason, Rpc};
use http::Method;

use super::dialect::Dialect;
use crate::http::pages::Page;

/// The target of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// One of the seven RPCs of the API. `name` is the one in the path; empty without one.
    Call { rpc: Rpc, dialect: Dialect, name: Cow<'a, str> },
    /// gRPC health and reflection.
    Infrastructure,
    /// A page or file for people.
    Page(&'static Page),
    /// The process is alive.
    Livez,
    /// The server is ready.
    Readyz,
    /// Prometheus metrics.
    Metrics,
    /// The path is known, the method is not one of these.
    WrongMethod { allow: Cow<'static, str>, dialect: Dialect },
    /// The path is unknown.
    Unknown { dialect: Dialect },
}

const REST_PREFIX: &str = "/v1/";
const RPC_PREFIX: &str = "/agentrouter.secret.v1.SecretService/";

/// Whether a path is below one of the API's prefixes.
pub(crate) fn is_api(path: &str) -> bool {
    path.starts_with(REST_PREFIX) || path.starts_with(RPC_PREFIX)
}

/// Whether a path is that of a probe, which gets a response on a connection without a seat, too.
pub(crate) fn is_probe(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/grpc.health.v1.Health/Check")
}

/// The procedures of gRPC health and reflection. Others of these services are unknown: the library would name them.
const INFRASTRUCTURE: [&str; 4] = [
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

impl<'a> Route<'a> {
    /// The target of a request. The response to an unknown path is in the protocol of the request: `speaks_rpc` is
    /// whether that is Connect, gRPC or gRPC-Web.
    pub(crate) fn of(method: &Method, path: &'a str, speaks_rpc: impl FnOnce() -> bool) -> Self {
        if path.starts_with(REST_PREFIX) {
            return Self::rest(method, path);
        }
        if let Some(procedure) = path.strip_prefix(RPC_PREFIX) {
            return match Rpc::ALL.into_iter().find(|rpc| rpc.as_str() == procedure) {
                None => Self::Unknown { dialect: Dialect::Connect },
                Some(_) if method != Method::POST => {
                    Self::WrongMethod { allow: "POST".into(), dialect: Dialect::Connect }
                }
                Some(rpc) => Self::Call { rpc, dialect: Dialect::Connect, name: Cow::Borrowed("") },
            };
        }
        if INFRASTRUCTURE.contains(&path) {
            return Self::Infrastructure;
        }
        let route = match path {
            "/livez" => Self::Livez,
            "/readyz" => Self::Readyz,
            "/metrics" => Self::Metrics,
            _ => match Page::at(path) {
                Some(page) => Self::Page(page),
                None => {
                    // JSON is of Connect as well as of REST, so the path decides.
                    let of_a_service = path.matches('/').count() == 2 && path.contains(".v");
                    let rpc = of_a_service || speaks_rpc();
                    let dialect = if rpc { Dialect::Connect } else { Dialect::Rest };
                    return Self::Unknown { dialect };
                }
            },
        };
        if method == Method::GET || method == Method::HEAD {
            route
        } else {
            Self::WrongMethod { allow: "GET, HEAD".into(), dialect: Dialect::Rest }
        }
    }

    fn rest(method: &Method, path: &'a str) -> Self {
        let dialect = Dialect::Rest;
        match routes::find(method.as_str(), path) {
            Ok(found) => Self::Call { rpc: found.rpc, dialect, name: found.name },
            Err(refusal) if refusal.reason == Reason::MethodNotAllowed => {
                Self::WrongMethod { allow: routes::allowed(path).join(", ").into(), dialect }
            }
            Err(_) => Self::Unknown { dialect },
        }
    }
}

#[cfg(test)]
mod tests {
    use agentrouter_api::routes::ROUTES;

    use super::*;

    #[test]
    fn every_call_has_a_route_and_is_routed() {
        for rpc in Rpc::ALL {
            let route = ROUTES.iter().find(|route| route.rpc == rpc).expect("it has a route");
            let method: Method = route.method.parse().expect("a method");
            let path = route.template.replace("{name}", "n");
            let name = if route.template.contains("{name}") { "n" } else { "" }.into();
            assert_eq!(
                Route::of(&method, &path, || false),
                Route::Call { rpc, dialect: Dialect::Rest, name }
            );
            let path = format!("{RPC_PREFIX}{rpc}");
            let call = Route::Call { rpc, dialect: Dialect::Connect, name: Cow::Borrowed("") };
            assert_eq!(Route::of(&Method::POST, &path, || false), call);
        }
    }

    #[test]
    fn other_spellings_of_a_path_are_other_paths() {
        let unknown = Route::Unknown { dialect: Dialect::Rest };
        for path in [
            "/v1/secrets/",
            "/v1/secrets//",
            "//v1/secrets",
            "/v1//secrets",
            "/v1/secrets/n/",
            "/v1/secrets/n/rotate/",
            "/v1/secrets/n/Rotate",
            "/V1/secrets",
            "/v1/secretsx",
            "/v1/./secrets",
        ] {
            assert_eq!(Route::of(&Method::GET, path, || false), unknown, "{path}");
        }
        let name = Cow::Borrowed("..");
        let get = Route::Call { rpc: Rpc::GetSecret, dialect: Dialect::Rest, name };
        assert_eq!(Route::of(&Method::GET, "/v1/secrets/..", || false), get, "an invalid name, not a parent");
    }

    #[test]
    fn a_value_cannot_be_read_by_get() {
        for path in ["/v1/secrets/n/value", "/agentrouter.secret.v1.SecretService/GetSecretValue"] {
            let route = Route::of(&Method::GET, path, || false);
            assert!(matches!(&route, Route::WrongMethod { allow, .. } if allow == "POST"), "{path}");
        }
    }

    #[test]
    fn an_unknown_procedure_is_rejected_in_the_protocol_of_the_request() {
        for (path, without) in [
            ("/foo.Bar/Nope", Dialect::Rest),
            ("/grpc.health.v1.Health/List", Dialect::Connect),
            ("/x", Dialect::Rest),
        ] {
            for (speaks_rpc, dialect) in [(true, Dialect::Connect), (false, without)] {
                assert_eq!(
                    Route::of(&Method::POST, path, || speaks_rpc),
                    Route::Unknown { dialect },
                    "{path}"
                );
            }
        }
    }
}

//! Which REST path is which RPC.
//!
//! A path is matched as it was sent: only the name is percent-decoded, and only after the match, so that an encoded
//! slash cannot change the route.

use std::borrow::Cow;

use agentrouter_model::{Reason, Refusal, Rpc};

use crate::rest::decode_percent;

/// One REST route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The RPC it calls.
    pub rpc: Rpc,
    /// The HTTP method.
    pub method: &'static str,
    /// The path, in which `{name}` stands for one segment.
    pub template: &'static str,
    /// What is before `{name}` and after it; all of it and nothing where there is none.
    parts: (&'static str, Option<&'static str>),
}

const fn route(rpc: Rpc, method: &'static str, template: &'static str) -> Route {
    let bytes = template.as_bytes();
    let mut at = 0;
    while at < bytes.len() && bytes[at] != b'{' {
        at += 1;
    }
    let (before, rest) = template.split_at(at);
    let after = if rest.is_empty() { None } else { Some(rest.split_at("{name}".len()).1) };
    Route { rpc, method, template, parts: (before, after) }
}

/// All REST routes, one for each RPC.
pub const ROUTES: [Route; 7] = [
    route(Rpc::CreateSecret, "POST", "/v1/secrets"),
    route(Rpc::GetSecret, "GET", "/v1/secrets/{name}"),
    route(Rpc::ListSecrets, "GET", "/v1/secrets"),
    route(Rpc::DeleteSecret, "DELETE", "/v1/secrets/{name}"),
    route(Rpc::RotateSecret, "POST", "/v1/secrets/{name}/rotate"),
    route(Rpc::ValidateSecret, "POST", "/v1/secrets/{name}/validate"),
    route(Rpc::GetSecretValue, "POST", "/v1/secrets/{name}/value"),
];

/// What a request line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match<'a> {
    /// The RPC.
    pub rpc: Rpc,
    /// The decoded name, or the raw one where it does not decode; empty where the route has none.
    pub name: Cow<'a, str>,
}

/// Finds the route of a method and a path (without its query).
///
/// # Errors
/// `UNKNOWN_ROUTE` when no route has the path, `METHOD_NOT_ALLOWED` when one has it but not the method ([`allowed`]
/// lists those it takes).
pub fn find<'a>(method: &str, path: &'a str) -> Result<Match<'a>, Refusal> {
    let mut known = false;
    for route in &ROUTES {
        let Some(name) = route.segment(path) else { continue };
        known = true;
        if route.method == method {
            // What does not decode stays as it is: its `%` breaks the rule of names, and the call is refused where every
            // other wrong name is, after its caller was asked for a key.
            let name = decode_percent(name).unwrap_or(Cow::Borrowed(name));
            return Ok(Match { rpc: route.rpc, name });
        }
    }
    Err(Refusal::new(if known { Reason::MethodNotAllowed } else { Reason::UnknownRoute }))
}

/// The methods that a path takes, for the `Allow` header; none if no route has the path.
pub fn allowed(path: &str) -> Vec<&'static str> {
    ROUTES.iter().filter(|route| route.segment(path).is_some()).map(|route| route.method).collect()
}

impl Route {
    /// The segment that stands in the place of `{name}` (empty if the template has none), if the path fits the template.
    fn segment<'a>(&self, path: &'a str) -> Option<&'a str> {
        match self.parts {
            (whole, None) => (path == whole).then_some(""),
            (before, Some(after)) => {
                let name = path.strip_prefix(before)?.strip_suffix(after)?;
                (!name.is_empty() && !name.contains('/')).then_some(name)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_finds_its_rpc_and_its_name() {
        for (method, path, rpc, name) in [
            ("POST", "/v1/secrets", Rpc::CreateSecret, ""),
            ("GET", "/v1/secrets", Rpc::ListSecrets, ""),
            ("GET", "/v1/secrets/a.b", Rpc::GetSecret, "a.b"),
            ("DELETE", "/v1/secrets/rotate", Rpc::DeleteSecret, "rotate"),
            ("POST", "/v1/secrets/a/rotate", Rpc::RotateSecret, "a"),
            ("POST", "/v1/secrets/a%2Fb/value", Rpc::GetSecretValue, "a/b"),
            ("POST", "/v1/secrets/%7Bname%7D/validate", Rpc::ValidateSecret, "{name}"),
        ] {
            assert_eq!(find(method, path), Ok(Match { rpc, name: name.into() }), "{method} {path}");
        }
    }

    #[test]
    fn what_is_no_route_is_refused_for_its_reason() {
        for (method, path, reason) in [
            ("GET", "/v1/secrets/", Reason::UnknownRoute),
            ("GET", "/v1//secrets", Reason::UnknownRoute),
            ("GET", "/v1/secrets/a/b", Reason::UnknownRoute),
            ("POST", "/v1/secrets/a/value/", Reason::UnknownRoute),
            ("POST", "/V1/secrets", Reason::UnknownRoute),
            ("GET", "", Reason::UnknownRoute),
            ("PUT", "/v1/secrets", Reason::MethodNotAllowed),
            ("GET", "/v1/secrets/a/value", Reason::MethodNotAllowed),
            ("get", "/v1/secrets", Reason::MethodNotAllowed),
        ] {
            assert_eq!(find(method, path).map_err(|refusal| refusal.reason), Err(reason), "{method} {path}");
        }
        assert_eq!(allowed("/v1/secrets/a"), ["GET", "DELETE"]);
        assert!(allowed("/v2").is_empty());
    }

    #[test]
    fn a_name_that_does_not_decode_is_passed_on_raw() {
        let found = find("GET", "/v1/secrets/%zz").expect("a route");
        assert_eq!((found.rpc, &*found.name), (Rpc::GetSecret, "%zz"));
    }
}

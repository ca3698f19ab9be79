//! The REST routes: from method and path to RPC and name.
//!
//! The server's router calls it. A path is matched as it was sent. Only the name is percent-decoded, and only after the match,
//! so an encoded slash cannot change the route.

use std::borrow::Cow;

use agentrouter_model::{Reason, Refusal, Rpc};

use crate::rest::decode_percent;

/// One REST route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The RPC.
    pub rpc: Rpc,
    /// The HTTP method.
    pub method: &'static str,
    /// The path. `{name}` stands for one segment.
    pub template: &'static str,
    /// The parts before and after `{name}`. Without `{name}` the whole template and `None`.
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

/// The route of a request line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match<'a> {
    /// The RPC.
    pub rpc: Rpc,
    /// The decoded name, or the raw one if it does not decode. Empty if the route has none.
    pub name: Cow<'a, str>,
}

/// Finds the route of a method and a path (without its query).
///
/// # Errors
/// `UNKNOWN_ROUTE` when no route has the path. `METHOD_NOT_ALLOWED` when the path exists with other methods only
/// ([`allowed`] lists them).
pub fn find<'a>(method: &str, path: &'a str) -> Result<Match<'a>, Refusal> {
    let mut known = false;
    for route in &ROUTES {
        let Some(name) = route.segment(path) else { continue };
        known = true;
        if route.method == method {
            // A name that does not decode is passed raw. Its `%` breaks the rule of names, so it is refused like every other
            // invalid name, after authentication.
            let name = decode_percent(name).unwrap_or(Cow::Borrowed(name));
            return Ok(Match { rpc: route.rpc, name });
        }
    }
    Err(Refusal::new(if known { Reason::MethodNotAllowed } else { Reason::UnknownRoute }))
}

/// The methods of a path, for the `Allow` header. Empty if no route has the path.
pub fn allowed(path: &str) -> Vec<&'static str> {
    ROUTES.iter().filter(|route| route.segment(path).is_some()).map(|route| route.method).collect()
}

impl Route {
    /// The segment at `{name}`, empty if the template has none. `None` if the path does not match the template.
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
    fn a_request_line_maps_to_its_rpc_and_name() {
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
    fn an_unknown_path_or_method_is_refused() {
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
    fn a_name_that_does_not_decode_is_passed_raw() {
        let found = find("GET", "/v1/secrets/%zz").expect("a route");
        assert_eq!((found.rpc, &*found.name), (Rpc::GetSecret, "%zz"));
    }
}

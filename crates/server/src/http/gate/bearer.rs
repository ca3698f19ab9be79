//! The parser of the `Authorization` header.

use http::HeaderMap;
use http::header::AUTHORIZATION;

/// The token of the `Authorization` header. Two headers, or another scheme, count as none.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, value.parse().expect("a header value"))).collect()
    }

    #[test]
    fn one_bearer_token_is_read_and_two_are_none() {
        assert_eq!(bearer(&headers(&["Bearer ak-x"])), Some("ak-x"));
        assert_eq!(bearer(&headers(&["bearer ak-x"])), Some("ak-x"));
        for wrong in ["Basic ak-x", "ak-x", "Bearer", "Bearerak-x"] {
            assert_eq!(bearer(&headers(&[wrong])), None, "{wrong}");
        }
        assert_eq!(bearer(&headers(&["Bearer ak-x", "Bearer ak-x"])), None);
    }
}

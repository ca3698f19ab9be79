//! What the two services of Google Cloud have in common: the identity of the caller, and the meaning of errors.

mod account;
mod identity;

use google_cloud_gax::error::Error;
use google_cloud_gax::error::rpc::Code;

pub(super) use self::identity::Identity;
use self::identity::NoToken;
use crate::root::{Kind, RootError};

/// Sends a request. If its token is refused, sends it again with another token: the first may have expired on the way.
pub(super) async fn call<T, F>(identity: &Identity, request: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    match request().await {
        Err(error) if error.status().is_some_and(|status| status.code == Code::Unauthenticated) => {
            identity.renew();
            request().await
        }
        result => result,
    }
}

/// The failure of a call.
pub(super) fn refusal(error: &Error) -> RootError {
    if error.is_authentication() {
        return no_token(error);
    }
    if let Some(status) = error.status() {
        return RootError::new(
            kind(status.code),
            format!("Google Cloud responded with {}", status.code.name()),
        );
    }
    if error.is_deserialization() {
        return RootError::garbled();
    }
    RootError::unreachable("Google Cloud cannot be connected to")
}

/// Without a token nothing was refused about the key. Only an exchange that refuses the account is a denial.
fn no_token(error: &Error) -> RootError {
    let mut source = std::error::Error::source(error);
    while let Some(found) = source {
        if let Some(NoToken(kind)) = found.downcast_ref() {
            return RootError::new(*kind, "no token was issued for the Google credentials");
        }
        source = found.source();
    }
    RootError::unreachable("no Google credentials were found, or no token was issued for them")
}

fn kind(code: Code) -> Kind {
    match code {
        Code::PermissionDenied | Code::Unauthenticated => Kind::Denied,
        Code::FailedPrecondition | Code::NotFound => Kind::Unusable,
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => Kind::Garbled,
        _ => Kind::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_tells_a_denial_from_an_outage() {
        assert_eq!(kind(Code::PermissionDenied), Kind::Denied);
        assert_eq!(kind(Code::NotFound), Kind::Unusable);
        assert_eq!(kind(Code::InvalidArgument), Kind::Garbled);
        for outage in [Code::Unavailable, Code::Internal, Code::ResourceExhausted, Code::Unknown] {
            assert_eq!(kind(outage), Kind::Unreachable);
        }
    }
}

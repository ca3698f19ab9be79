//! The cause of a missing response, as far as the transport's error shows it.
//!
//! Uses the types of the inner errors, not their texts, which change. The one exception states its reason.

use std::error::Error as StdError;
use std::io;

use rustls::CertificateError;

use crate::Error;
use crate::transport::ProxyFailed;

/// Why there is no response of the service. See [`Error::cause`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// There is no connection, or it broke.
    Connection,
    /// The proxy of the environment cannot be reached, or did not connect to the server.
    Proxy,
    /// The server's certificate is not signed by a trusted certificate.
    CertificateUntrusted,
    /// The server's certificate is for another name or address.
    CertificateName,
    /// The server's certificate has expired, or is not valid yet.
    CertificateTime,
    /// The server's certificate is that of an authority (`CA:TRUE`), which may sign others but not serve.
    CertificateOfAuthority,
    /// The server does not speak TLS.
    NotTls,
    /// The response is not plain HTTP. Most likely the server speaks TLS.
    NotHttp,
    /// Another program than the secret service responded.
    OtherService,
}

impl Error {
    /// Why there is no response. `None` if there is one, it came too late, or no request was sent.
    pub fn cause(&self) -> Option<Cause> {
        let Self::Transport { .. } = self else { return None };
        let Some(transport) = self.source() else { return Some(Cause::OtherService) };
        Some(find(transport).unwrap_or(Cause::Connection))
    }
}

/// The first known error of the chain. An `io::Error` hides its inner error from `source`.
fn find(error: &(dyn StdError + 'static)) -> Option<Cause> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(of_tls(tls));
        }
        if error.is::<ProxyFailed>() {
            return Some(Cause::Proxy);
        }
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            return Some(Cause::NotHttp);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

fn of_tls(error: &rustls::Error) -> Cause {
    match error {
        rustls::Error::InvalidCertificate(certificate) => of_certificate(certificate),
        rustls::Error::InvalidMessage(_) => Cause::NotTls,
        _ => Cause::Connection,
    }
}

fn of_certificate(error: &CertificateError) -> Cause {
    match error {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Cause::CertificateName
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => Cause::CertificateTime,
        // An error of a library below rustls. Its type would require a dependency for this check alone.
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            Cause::CertificateOfAuthority
        }
        _ => Cause::CertificateUntrusted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(error: rustls::Error) -> io::Error {
        io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn what_tls_refused_is_found_wherever_it_is_wrapped() {
        use rustls::Error::{InvalidCertificate, InvalidMessage};
        for (error, cause) in [
            (InvalidCertificate(CertificateError::UnknownIssuer), Cause::CertificateUntrusted),
            (InvalidCertificate(CertificateError::BadSignature), Cause::CertificateUntrusted),
            (InvalidCertificate(CertificateError::NotValidForName), Cause::CertificateName),
            (InvalidCertificate(CertificateError::Expired), Cause::CertificateTime),
            (InvalidMessage(rustls::InvalidMessage::InvalidContentType), Cause::NotTls),
            (rustls::Error::HandshakeNotComplete, Cause::Connection),
        ] {
            assert_eq!(find(&within(error)), Some(cause));
        }
        assert_eq!(find(&io::Error::from(io::ErrorKind::ConnectionRefused)), None);
    }

    #[test]
    fn only_a_missing_response_has_a_cause() {
        assert_eq!(Error::from(crate::ConfigError::ApiKeyMissing).cause(), None);
        assert_eq!(Error::Timeout { after: std::time::Duration::from_secs(1) }.cause(), None);
    }
}

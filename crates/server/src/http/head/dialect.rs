//! The protocol of a request.

/// The protocol of a request and of its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// REST with JSON.
    Rest,
    /// Connect, gRPC or gRPC-Web. The content type decides which.
    Connect,
}

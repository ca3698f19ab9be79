//! The providers of root keys, one module each.

#[cfg(feature = "pkcs11")]
pub(crate) mod pkcs11;
#[cfg(feature = "vault-transit")]
pub(crate) mod vault_transit;

//! The providers of root keys, one module each.

#[cfg(feature = "aws-kms")]
pub(crate) mod aws_kms;
#[cfg(feature = "azure-key-vault")]
pub(crate) mod azure_key_vault;
#[cfg(feature = "gcp")]
mod gcp;
#[cfg(feature = "gcp-kms")]
pub(crate) mod gcp_kms;
#[cfg(feature = "gcp-secret-manager")]
pub(crate) mod gcp_secret_manager;
#[cfg(feature = "pkcs11")]
pub(crate) mod pkcs11;
#[cfg(feature = "vault-transit")]
pub(crate) mod vault_transit;

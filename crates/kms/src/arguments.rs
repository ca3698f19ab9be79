//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// A Kubernetes KMS v2 plugin: wraps keys under a root key that stays at its provider.
///
/// It serves Status, Encrypt and Decrypt on a Unix socket. `agentrouter-secrets` starts it with `--kek-provider`, and a
/// Kubernetes API server can use it too. Credentials are taken the way the provider's own tools take them.
#[derive(Debug, Parser)]
#[command(name = "agentrouter-secrets-kms", version)]
pub(crate) struct Arguments {
    /// Where the root key is.
    pub(crate) provider: Provider,
    /// The Unix socket to serve on. Its directory must be private to this user.
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// The root key: its name or URI at the provider.
    #[arg(long)]
    pub(crate) key: String,
    /// Another address of the provider's API, such as a private endpoint.
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// Exit when the standard input is closed, so that the process ends with the one that started it.
    #[arg(long)]
    pub(crate) child: bool,
}

/// The providers that this program was built with.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Provider {
    /// AWS KMS.
    #[cfg(feature = "aws-kms")]
    AwsKms,
    /// Azure Key Vault or Managed HSM.
    #[cfg(feature = "azure-key-vault")]
    AzureKeyVault,
    /// Google Cloud KMS.
    #[cfg(feature = "gcp-kms")]
    GcpKms,
    /// A secret in Google Secret Manager, which is the key.
    #[cfg(feature = "gcp-secret-manager")]
    GcpSecretManager,
    /// Transit of HashiCorp Vault or OpenBao.
    #[cfg(feature = "vault-transit")]
    VaultTransit,
    /// An AES key in an HSM, through its PKCS#11 library.
    #[cfg(feature = "pkcs11")]
    #[value(name = "pkcs11")]
    Pkcs11,
}

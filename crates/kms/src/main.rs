//! A Kubernetes KMS v2 plugin whose root key is in a KMS, an HSM or Vault.
//!
//! `agentrouter-secrets` starts it as a child process and calls it over a Unix socket. A Kubernetes API server can use it
//! too. Each provider of root keys is a module of [`roots`] and a feature of this package. The process holds no key of its
//! own between calls, and it is separate from the server so that a fault in a vendor's library ends this process only.
//!
//! [`arguments`] is the command line, [`socket`] the Unix socket, [`service`] the gRPC service, and [`root`] the trait of
//! the providers. [`attempts`] adds deadlines and retries to them.

mod arguments;
mod attempts;
#[cfg(any(
    feature = "aws-kms",
    feature = "azure-key-vault",
    feature = "gcp-kms",
    feature = "gcp-secret-manager",
    feature = "vault-transit"
))]
mod endpoint;
#[cfg(feature = "rest")]
mod http;
mod root;
mod roots;
mod service;
mod socket;

use std::future::{Future, pending};
use std::process::ExitCode;
use std::time::Duration;

use agentrouter_kms_api::server;
use anyhow::Context as _;
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::arguments::{Arguments, Provider};
use crate::attempts::Patient;
use crate::root::Root;
use crate::service::Plugin;
use crate::socket::SocketError;

/// The longest time that connections keep the process from ending. No call takes longer.
const DRAIN: Duration = Duration::from_secs(10);
/// The longest time that a call which hangs in a library delays the end of the process.
const LINGER: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("the threads cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(&arguments));
    runtime.shutdown_timeout(LINGER);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            if let Some(hint) = error.downcast_ref::<SocketError>().and_then(SocketError::hint) {
                tracing::error!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Logs to stderr: what this program says, and the warnings of the libraries.
fn log() {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let levels = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target(env!("CARGO_CRATE_NAME"), LevelFilter::INFO);
    tracing_subscriber::registry().with(lines).with(levels).init();
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let stop = stopped(arguments.child)?;
    let root = open(arguments).await?;
    let (listener, socket) = socket::bind(&arguments.socket)?;
    tracing::info!(socket = %arguments.socket.display(), "serving");
    let (sender, stopping) = oneshot::channel::<()>();
    let stop = async {
        stop.await;
        drop(sender);
    };
    tokio::select! {
        () = server::serve(listener, Plugin { root }, stop) => {}
        () = async { drop(stopping.await); sleep(DRAIN).await } => {}
    }
    drop(socket);
    Ok(())
}

/// The root key. It need not be reachable yet.
async fn open(arguments: &Arguments) -> anyhow::Result<Box<dyn Root>> {
    let (key, endpoint) = (arguments.key.as_str(), arguments.endpoint.as_deref());
    Ok(match arguments.provider {
        #[cfg(feature = "aws-kms")]
        Provider::AwsKms => patient(roots::aws_kms::AwsKms::open(key, endpoint).await?),
        #[cfg(feature = "azure-key-vault")]
        Provider::AzureKeyVault => patient(roots::azure_key_vault::KeyVault::open(key, endpoint)?),
        #[cfg(feature = "gcp-kms")]
        Provider::GcpKms => patient(roots::gcp_kms::GcpKms::open(key, endpoint).await?),
        #[cfg(feature = "gcp-secret-manager")]
        Provider::GcpSecretManager => {
            patient(roots::gcp_secret_manager::SecretManager::open(key, endpoint).await?)
        }
        #[cfg(feature = "vault-transit")]
        Provider::VaultTransit => patient(roots::vault_transit::Transit::open(key, endpoint)?),
        #[cfg(feature = "pkcs11")]
        Provider::Pkcs11 => {
            anyhow::ensure!(endpoint.is_none(), "a PKCS#11 library has no --endpoint");
            patient(roots::pkcs11::Token::open(key)?)
        }
    })
}

fn patient(root: impl Root + 'static) -> Box<dyn Root> {
    Box::new(Patient(root))
}

/// Completes when the process should end: at SIGTERM or SIGINT, and for a child at the end of its standard input.
fn stopped(child: bool) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("signals cannot be received")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("signals cannot be received")?;
    let closed = child.then(end_of_input).transpose()?;
    Ok(async move {
        let parent_ended = async {
            match closed {
                Some(closed) => drop(closed.await),
                None => pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = parent_ended => {}
        }
    })
}

/// Completes at the end of the standard input. Its content is ignored.
fn end_of_input() -> anyhow::Result<oneshot::Receiver<()>> {
    let (sender, closed) = oneshot::channel();
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        // An error of the pipe also means that its other end is gone.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = sender.send(());
    })?;
    Ok(closed)
}

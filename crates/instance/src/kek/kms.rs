//! A root key in a KMS, behind a KMS plugin (Kubernetes KMS v2).
//!
//! The calls are rare: at the start, at each re-check, and when a KEK is added or moved. So each has a connection and a
//! runtime of its own, on a thread of its own, and [`Root`] needs no async. A call has a deadline. If the plugin or the KMS
//! cannot be reached, it is repeated twice, after a random pause. A refusal is not repeated.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentrouter_crypto::Kek;
use agentrouter_keyring::{Root, RootError, WrappedKek};
use agentrouter_kms_api::client::{Plugin, PluginError, Wrapped};
use agentrouter_kms_api::{HEALTHY, VERSION};
use agentrouter_model::{KekId, Rng};
use futures_util::future::try_join_all;
use zeroize::Zeroizing;

use super::child::Child;

/// The longest time of one call.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often a call is made if the root key cannot be reached.
const ATTEMPTS: u32 = 3;
/// The mean pause before the second attempt. It is twice as long before the third.
const PAUSE: Duration = Duration::from_millis(250);

/// A root key behind a plugin.
pub(super) struct KmsRoot {
    provider: &'static str,
    plugin: Source,
    deadline: Duration,
    rng: Arc<dyn Rng>,
}

/// Where the plugin is.
enum Source {
    /// It runs already.
    Socket(PathBuf),
    /// This process runs it.
    Child(Child),
}

impl KmsRoot {
    /// Behind a plugin that serves `socket`.
    pub(super) fn on(provider: &'static str, socket: PathBuf, rng: Arc<dyn Rng>) -> Self {
        Self { provider, plugin: Source::Socket(socket), deadline: DEADLINE, rng }
    }

    /// Behind a plugin that this process runs.
    pub(super) fn of_child(provider: &'static str, child: Child, rng: Arc<dyn Rng>) -> Self {
        Self { provider, plugin: Source::Child(child), deadline: DEADLINE, rng }
    }

    /// With another deadline.
    #[cfg(test)]
    pub(super) fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// The process of its plugin, if this process runs it.
    #[cfg(test)]
    pub(super) fn process_id(&self) -> Option<u32> {
        match &self.plugin {
            Source::Child(child) => child.process_id(),
            Source::Socket(_) => None,
        }
    }

    /// Makes a call, and repeats it if the root key cannot be reached.
    fn call<T: Send>(
        &self,
        call: impl AsyncFn(&Plugin) -> Result<T, PluginError> + Sync,
    ) -> Result<T, RootError> {
        let socket = match &self.plugin {
            Source::Socket(socket) => socket.clone(),
            Source::Child(child) => child.start()?,
        };
        let work = || -> Result<T, RootError> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| RootError::Unreachable { what: error.to_string() })?;
            runtime.block_on(async {
                let plugin = Plugin::new(&socket, self.deadline);
                let mut attempt = 1;
                loop {
                    match call(&plugin).await {
                        Err(PluginError::Unreachable { .. } | PluginError::Silent) if attempt < ATTEMPTS => {
                            tokio::time::sleep(self.pause(attempt)).await;
                            attempt += 1;
                        }
                        Err(error) => {
                            self.restart_if_silent(&plugin, &error).await;
                            return Err(root_error(error));
                        }
                        Ok(done) => return Ok(done),
                    }
                }
            })
        };
        // A thread of its own, because the caller may be within a runtime.
        std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|_| {
            Err(RootError::Unusable { what: "the call of the plugin panicked".to_owned() })
        })
    }

    /// From half to one and a half of the mean, so that servers that lost their KMS together do not return together.
    fn pause(&self, attempt: u32) -> Duration {
        let mut random = [0; 2];
        // Without randomness, the pause is the shortest.
        let _ = self.rng.fill(&mut random);
        let share = f64::from(u16::from_be_bytes(random)) / f64::from(u16::MAX);
        PAUSE.mul_f64(f64::from(attempt) * (0.5 + share))
    }

    /// Ends a plugin of this process that does not even say how it is. It is started again.
    async fn restart_if_silent(&self, plugin: &Plugin, error: &PluginError) {
        // The KMS may be slow. A plugin that works says how it is.
        if let (Source::Child(child), PluginError::Silent) = (&self.plugin, error)
            && matches!(plugin.status().await, Err(PluginError::Silent))
        {
            child.restart();
        }
    }
}

impl Root for KmsRoot {
    fn provider(&self) -> &str {
        self.provider
    }

    fn check(&self) -> Result<(), RootError> {
        self.call(async |plugin| check(plugin).await)
    }

    fn wrap(&self, kek: &Kek) -> Result<WrappedKek, RootError> {
        let wrapped = self.call(async |plugin| {
            check(plugin).await?;
            plugin.encrypt(kek.expose(), kek.id().as_str()).await
        })?;
        let Wrapped { ciphertext, key_id, annotations } = wrapped;
        let provider = self.provider.to_owned();
        Ok(WrappedKek { provider, root_id: key_id, wrapped: ciphertext, annotations })
    }

    fn unwrap(&self, keks: &[(KekId, &WrappedKek)]) -> Result<Vec<Kek>, RootError> {
        let wrapped: Vec<(&KekId, Wrapped)> = keks.iter().map(|(id, kek)| (id, as_response(kek))).collect();
        self.call(async |plugin| {
            try_join_all(wrapped.iter().map(async |(id, kek)| {
                let plaintext = plugin.decrypt(kek, id.as_str()).await?;
                let Ok(bytes) = <[u8; 32]>::try_from(&plaintext[..]) else {
                    return Err(PluginError::Malformed { what: "a key that is not 32 bytes" });
                };
                Ok(Kek::from_bytes((*id).clone(), Zeroizing::new(bytes)))
            }))
            .await
        })
    }
}

/// Whether the plugin speaks this version of the API, and says that it works.
async fn check(plugin: &Plugin) -> Result<(), PluginError> {
    let status = plugin.status().await?;
    if status.version != VERSION && status.version != "v2beta1" {
        return Err(PluginError::Malformed { what: "another version of the API than v2" });
    }
    if status.healthz != HEALTHY {
        let what: String = status.healthz.chars().filter(|c| !c.is_control()).take(200).collect();
        return Err(PluginError::Unreachable { what: format!("the plugin says: {what}") });
    }
    Ok(())
}

fn as_response(kek: &WrappedKek) -> Wrapped {
    let annotations: BTreeMap<_, _> = kek.annotations.clone();
    Wrapped { ciphertext: kek.wrapped.clone(), key_id: kek.root_id.clone(), annotations }
}

fn root_error(error: PluginError) -> RootError {
    match error {
        PluginError::Unreachable { what } => RootError::Unreachable { what },
        error @ PluginError::Silent => RootError::Unreachable { what: error.to_string() },
        PluginError::Denied { what } => RootError::Denied { what },
        error @ (PluginError::Untrusted { .. } | PluginError::Malformed { .. }) => {
            RootError::Unusable { what: error.to_string() }
        }
    }
}

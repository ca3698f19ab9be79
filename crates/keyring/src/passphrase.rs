//! The root key from a passphrase: Argon2id (RFC 9106).
//!
//! The id of the root key is the salt and the cost, in the form of a PHC string without a hash:
//! `$argon2id$v=19$m=65536,t=3,p=4$<salt>`. All KEKs of a file have the same, so that a start derives one key. The cost is
//! bounded when it is read, so that a forged file takes at most 1 GiB.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Formatter};
use std::sync::{Arc, Mutex, PoisonError};

use agentrouter_crypto::{Argon2Cost, CryptoError, Kek};
use agentrouter_model::{KekId, Rng};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use zeroize::Zeroizing;

use crate::root::{Root, RootError, WrappedKek};

/// Bytes of a salt, as RFC 9106 recommends.
const SALT_LEN: usize = 16;
/// The start of the id of a root key: the algorithm and its version.
const PREFIX: &str = "$argon2id$v=19$";

/// A root key from a passphrase.
pub struct Passphrase {
    passphrase: Zeroizing<Vec<u8>>,
    cost: Argon2Cost,
    rng: Arc<dyn Rng>,
    /// The root key that was derived last, by its id.
    derived: Mutex<Option<(String, Arc<Kek>)>>,
}

impl Passphrase {
    /// The value of `kek.provider`.
    pub const PROVIDER: &str = "passphrase";

    /// The root key of `passphrase`. A new one has the cost that RFC 9106 recommends.
    pub fn new(passphrase: Zeroizing<Vec<u8>>, rng: Arc<dyn Rng>) -> Self {
        Self::with_cost(passphrase, Argon2Cost::RECOMMENDED, rng)
    }

    /// The root key of `passphrase`. A new one has this cost.
    pub fn with_cost(passphrase: Zeroizing<Vec<u8>>, cost: Argon2Cost, rng: Arc<dyn Rng>) -> Self {
        Self { passphrase, cost, rng, derived: Mutex::default() }
    }

    /// The root key `id`.
    fn derive(&self, id: &str) -> Result<Arc<Kek>, RootError> {
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, root)) = &*derived
            && known == id
        {
            return Ok(Arc::clone(root));
        }
        let (cost, salt) = parse(id).ok_or_else(|| RootError::Unusable {
            what: "the KEK file has no cost of Argon2id that this version accepts".to_owned(),
        })?;
        let name = KekId::parse(Self::PROVIDER).expect("letters");
        let root = Arc::new(Kek::from_passphrase(name, &self.passphrase, &salt, cost)?);
        *derived = Some((id.to_owned(), Arc::clone(&root)));
        Ok(root)
    }

    /// The id of the root key that was used last, or of a new one.
    fn current(&self) -> Result<String, CryptoError> {
        let derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        match &*derived {
            Some((id, _)) => Ok(id.clone()),
            None => {
                let mut salt = [0; SALT_LEN];
                self.rng.fill(&mut salt)?;
                Ok(text(self.cost, &salt))
            }
        }
    }
}

impl Root for Passphrase {
    fn provider(&self) -> &str {
        Self::PROVIDER
    }

    fn wrap(&self, kek: &Kek) -> Result<WrappedKek, RootError> {
        let root_id = self.current()?;
        let wrapped = kek.wrap(&*self.rng, &*self.derive(&root_id)?, &root_id)?;
        let provider = Self::PROVIDER.to_owned();
        Ok(WrappedKek { provider, root_id, wrapped: wrapped.into_vec(), annotations: BTreeMap::new() })
    }

    fn unwrap(&self, keks: &[(KekId, &WrappedKek)]) -> Result<Vec<Kek>, RootError> {
        if keks.windows(2).any(|pair| pair[0].1.root_id != pair[1].1.root_id) {
            // Each derivation takes as much as a forged file says.
            return Err(RootError::Unusable { what: "the KEK file has several salts".to_owned() });
        }
        let unwrap = |(id, kek): &(KekId, &WrappedKek)| {
            let root = self.derive(&kek.root_id)?;
            Kek::unwrap(id.clone(), &root, &kek.root_id, &kek.wrapped).map_err(|error| match error {
                CryptoError::Corrupt => RootError::WrongPassphrase,
                error => error.into(),
            })
        };
        keks.iter().map(unwrap).collect()
    }
}

impl Debug for Passphrase {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(redacted)")
    }
}

fn text(cost: Argon2Cost, salt: &[u8]) -> String {
    let (memory, passes, lanes) = (cost.memory_kib(), cost.passes(), cost.lanes());
    format!("{PREFIX}m={memory},t={passes},p={lanes}${}", STANDARD_NO_PAD.encode(salt))
}

/// The cost and the salt of the id of a root key. `None` for any other text than [`text`] writes.
pub(crate) fn parse(id: &str) -> Option<(Argon2Cost, Vec<u8>)> {
    let (cost, salt) = id.strip_prefix(PREFIX)?.split_once('$')?;
    let (memory, rest) = cost.strip_prefix("m=")?.split_once(",t=")?;
    let (passes, lanes) = rest.split_once(",p=")?;
    let cost = Argon2Cost::new(memory.parse().ok()?, passes.parse().ok()?, lanes.parse().ok()?)?;
    let salt = STANDARD_NO_PAD.decode(salt).ok().filter(|salt| salt.len() == SALT_LEN)?;
    (text(cost, &salt) == id).then_some((cost, salt))
}

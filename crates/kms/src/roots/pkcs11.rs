//! An AES key in an HSM or another token, through its PKCS#11 library.
//!
//! ```text
//! offset  bytes  field
//!      0      1  format, 1
//!      1     12  IV, random
//!     13  n + 16 ciphertext and tag: CKM_AES_GCM under the key, with PURPOSE as AAD
//! ```
//!
//! The key must be there once. Its id is its URI (RFC 7512) without library and PIN. To rotate it, make a key with another
//! label and move the KEKs to it.
//!
//! Calls of the library block and may hang, so they run on a thread of their own, one at a time, with one session. After an
//! error of the token the library is closed and loaded again, which also logs in again. A PIN that was refused is not
//! tried again before the file with it changes, because tokens lock after a few wrong ones.

mod uri;

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use agentrouter_crypto::SystemRng;
use agentrouter_model::Rng as _;
use async_trait::async_trait;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::RawAuthPin;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use self::uri::Uri;
use crate::root::{Encrypted, Kind, PURPOSE, Plaintext, Root, RootError};

/// The only format of a ciphertext.
const FORMAT: u8 = 1;
/// Bytes of an IV.
const IV_LEN: usize = 12;
/// Bits of a tag.
const TAG_BITS: u64 = 128;
/// The longest PIN file, in bytes.
const LONGEST_PIN: u64 = 1024;

/// A key in a token.
pub(crate) struct Token {
    connection: Arc<Mutex<Connection>>,
}

impl Token {
    /// The key of this URI. The library is loaded with the first call.
    ///
    /// # Errors
    /// When the URI is invalid.
    pub(crate) fn open(uri: &str) -> anyhow::Result<Self> {
        let connection = Connection { uri: Uri::parse(uri)?, open: None, refused: None };
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    /// Runs `work` on the thread of the library.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, RootError> + Send + 'static,
    ) -> Result<T, RootError> {
        // A call that hangs keeps the lock, so that at most one thread hangs.
        let mut connection = Arc::clone(&self.connection).lock_owned().await;
        let result = tokio::task::spawn_blocking(move || work(&mut connection)).await;
        result.unwrap_or_else(|_| Err(RootError::unreachable("a call of the PKCS#11 library failed")))
    }
}

#[async_trait]
impl Root for Token {
    async fn status(&self) -> Result<String, RootError> {
        self.run(|connection| {
            connection.with(|open| {
                open.session.get_attributes(open.key, &[AttributeType::Label])?;
                Ok(open.id.clone())
            })
        })
        .await
    }

    async fn encrypt(&self, plaintext: &[u8]) -> Result<Encrypted, RootError> {
        let plaintext = Zeroizing::new(plaintext.to_vec());
        self.run(move |connection| {
            let mut iv = [0; IV_LEN];
            let unavailable = |_| RootError::unreachable("the operating system has no randomness");
            SystemRng.fill(&mut iv).map_err(unavailable)?;
            connection.with(|open| {
                Ok(Encrypted { ciphertext: open.encrypt(iv, &plaintext)?, key_id: open.id.clone() })
            })
        })
        .await
    }

    async fn decrypt(&self, _key_id: &str, ciphertext: &[u8]) -> Result<Plaintext, RootError> {
        let Some((&FORMAT, rest)) = ciphertext.split_first() else { return Err(RootError::ciphertext()) };
        let Some((iv, sealed)) = rest.split_first_chunk::<IV_LEN>() else {
            return Err(RootError::ciphertext());
        };
        let (iv, sealed) = (*iv, sealed.to_vec());
        self.run(move |connection| {
            connection.with(|open| match open.decrypt(iv, &sealed) {
                // Some libraries have one error for a wrong tag and for a fault of the token. The token works if it
                // decrypts what it has just encrypted.
                Err(Error::Pkcs11(RvError::GeneralError | RvError::FunctionFailed, function)) => {
                    let probe = open.encrypt(iv, &[])?;
                    open.decrypt(iv, &probe[1 + IV_LEN..])?;
                    Err(Error::Pkcs11(RvError::EncryptedDataInvalid, function))
                }
                result => result,
            })
        })
        .await
    }
}

/// The library with its session, if there is one.
struct Connection {
    uri: Uri,
    open: Option<Open>,
    /// The PIN that the token refused.
    refused: Option<Zeroizing<Vec<u8>>>,
}

/// A session that is logged in, and the key.
struct Open {
    // Dropped first: a session is closed before its library.
    session: Session,
    context: Pkcs11,
    key: ObjectHandle,
    /// The URI of the key.
    id: String,
}

impl Connection {
    /// Runs `work` with the session. After an error that another session may not have, the session is dropped.
    fn with<T>(&mut self, work: impl FnOnce(&Open) -> Result<T, Error>) -> Result<T, RootError> {
        let open = match self.open.take() {
            Some(open) => open,
            None => self.connect()?,
        };
        match work(&open).map_err(|error| refusal(&error)) {
            Err(error) if error.kind == Kind::Unreachable => {
                open.close();
                Err(error)
            }
            result => {
                self.open = Some(open);
                result
            }
        }
    }

    fn connect(&mut self) -> Result<Open, RootError> {
        let context = Pkcs11::new(&self.uri.module)
            .map_err(|_| RootError::unreachable("the PKCS#11 library cannot be loaded"))?;
        match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(refusal(&error)),
        }
        let result = self.log_in(&context);
        if result.is_err() {
            let _ = context.finalize();
        }
        result
    }

    fn log_in(&mut self, context: &Pkcs11) -> Result<Open, RootError> {
        let slot = self.slot(context)?;
        let token = context.get_token_info(slot).map_err(|error| refusal(&error))?;
        let session = context.open_ro_session(slot).map_err(|error| refusal(&error))?;
        if token.login_required() {
            self.give_pin(&session, token.protected_authentication_path())?;
        }
        let (key, label, id) = self.key(&session)?;
        let id = uri::of_key(token.label(), token.serial_number(), &label, &id);
        Ok(Open { session, context: context.clone(), key, id })
    }

    /// The slot of the only token that the URI matches.
    fn slot(&self, context: &Pkcs11) -> Result<Slot, RootError> {
        let slots = context.get_slots_with_initialized_token().map_err(|error| refusal(&error))?;
        let matches =
            |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|wanted| wanted == value);
        let mut found = slots.into_iter().filter(|slot| {
            let Ok(token) = context.get_token_info(*slot) else { return false };
            self.uri.slot.is_none_or(|wanted| wanted == slot.id())
                && matches(&self.uri.token, token.label())
                && matches(&self.uri.serial, token.serial_number())
                && matches(&self.uri.manufacturer, token.manufacturer_id())
                && matches(&self.uri.model, token.model())
        });
        let Some(slot) = found.next() else { return Err(RootError::unreachable("the token is not present")) };
        if found.next().is_some() {
            return Err(RootError::new(Kind::Garbled, "several tokens match; add serial=… to the URI"));
        }
        Ok(slot)
    }

    fn give_pin(&mut self, session: &Session, has_pin_pad: bool) -> Result<(), RootError> {
        let Some(file) = &self.uri.pin else {
            if !has_pin_pad {
                let text = "the token needs a PIN; add pin-source=file:PATH to the URI";
                return Err(RootError::new(Kind::Garbled, text));
            }
            return logged_in(session.login(UserType::User, None));
        };
        let pin = pin_in(file)?;
        if self.refused.as_ref() == Some(&pin) {
            return Err(RootError::denied("the token refused the PIN; it is not tried again"));
        }
        let result =
            logged_in(session.login_with_raw(UserType::User, &RawAuthPin::new(Box::new(pin.to_vec()))));
        self.refused = result.as_ref().is_err_and(|error| error.kind == Kind::Denied).then_some(pin);
        result
    }

    /// The only key that the URI matches, with its label and its id.
    fn key(&self, session: &Session) -> Result<(ObjectHandle, Vec<u8>, Vec<u8>), RootError> {
        let mut template = vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(true),
        ];
        template.extend(self.uri.object.clone().map(Attribute::Label));
        template.extend(self.uri.id.clone().map(Attribute::Id));
        let found = session.find_objects(&template).map_err(|error| refusal(&error))?;
        let key = match found.as_slice() {
            [key] => *key,
            [] => return Err(RootError::unusable("the token has no such AES key")),
            _ => return Err(RootError::new(Kind::Garbled, "several keys match; add id=… to the URI")),
        };
        let wanted = [AttributeType::Label, AttributeType::Id, AttributeType::Extractable];
        let (mut label, mut id) = (Vec::new(), Vec::new());
        for attribute in session.get_attributes(key, &wanted).map_err(|error| refusal(&error))? {
            match attribute {
                Attribute::Label(value) => label = value,
                Attribute::Id(value) => id = value,
                Attribute::Extractable(true) => tracing::warn!("the root key is extractable from the token"),
                _ => {}
            }
        }
        Ok((key, label, id))
    }
}

impl Open {
    fn encrypt(&self, mut iv: [u8; IV_LEN], plaintext: &[u8]) -> Result<Vec<u8>, Error> {
        let params = GcmParams::new(&mut iv, PURPOSE.as_bytes(), TAG_BITS.into())?;
        let sealed = self.session.encrypt(&Mechanism::AesGcm(params), self.key, plaintext)?;
        // Some tokens replace the IV by one of their own.
        Ok([&[FORMAT], iv.as_slice(), &sealed].concat())
    }

    fn decrypt(&self, mut iv: [u8; IV_LEN], sealed: &[u8]) -> Result<Plaintext, Error> {
        let params = GcmParams::new(&mut iv, PURPOSE.as_bytes(), TAG_BITS.into())?;
        self.session.decrypt(&Mechanism::AesGcm(params), self.key, sealed).map(Zeroizing::new)
    }

    /// Closes the session and the library. Their errors do not matter: the token may be gone.
    fn close(self) {
        drop(self.session);
        let _ = self.context.finalize();
    }
}

/// The PIN in a file, without the line's end.
fn pin_in(file: &std::path::Path) -> Result<Zeroizing<Vec<u8>>, RootError> {
    let unreadable = |_| RootError::unreachable("the file with the PIN cannot be read");
    let metadata = std::fs::metadata(file).map_err(unreadable)?;
    if metadata.mode() & 0o077 != 0 {
        return Err(RootError::new(
            Kind::Garbled,
            "the file with the PIN is open to other users; run chmod 600",
        ));
    }
    if metadata.len() > LONGEST_PIN {
        return Err(RootError::new(Kind::Garbled, "the file with the PIN is too long"));
    }
    let mut pin = Zeroizing::new(std::fs::read(file).map_err(unreadable)?);
    let length = pin.trim_ascii_end().len();
    pin.truncate(length);
    Ok(pin)
}

/// The result of a login. Another session of this process may be logged in already.
fn logged_in(result: Result<(), Error>) -> Result<(), RootError> {
    match result {
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
        Err(error) => Err(refusal(&error)),
    }
}

fn refusal(error: &Error) -> RootError {
    let Error::Pkcs11(code, function) = error else {
        return RootError::new(Kind::Garbled, "the PKCS#11 library's response could not be understood");
    };
    match kind(*code) {
        Kind::Ciphertext => RootError::ciphertext(),
        kind => RootError::new(kind, format!("the token's {function:?} failed with {code:?}")),
    }
}

fn kind(code: RvError) -> Kind {
    match code {
        RvError::PinIncorrect
        | RvError::PinInvalid
        | RvError::PinLenRange
        | RvError::PinExpired
        | RvError::PinLocked
        | RvError::UserPinNotInitialized
        | RvError::UserTypeInvalid => Kind::Denied,
        RvError::KeyFunctionNotPermitted
        | RvError::KeyTypeInconsistent
        | RvError::KeySizeRange
        | RvError::MechanismInvalid
        | RvError::MechanismParamInvalid => Kind::Unusable,
        RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange => Kind::Ciphertext,
        // A lost session or token, or one that is out of order. Another session may work.
        _ => Kind::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn a_library_that_cannot_be_loaded_is_unreachable() {
        let token = Token::open("pkcs11:object=a?module-path=/no/such/library.so").expect("a URI");
        assert_eq!(token.status().await.expect_err("no library").kind, Kind::Unreachable);
    }

    #[tokio::test]
    async fn a_ciphertext_that_is_too_short_is_refused_before_the_library_is_loaded() {
        let token = Token::open("pkcs11:object=a?module-path=/no/such/library.so").expect("a URI");
        for bad in [&[][..], &[1; 12], &[2; 40]] {
            assert_eq!(token.decrypt("", bad).await.expect_err("short").kind, Kind::Ciphertext);
        }
    }

    #[test]
    fn a_pin_file_must_be_private_and_its_line_end_is_no_part_of_the_pin() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "1234\n").expect("written");
        assert_eq!(**pin_in(file.path()).expect("a PIN"), *b"1234");
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o640)).expect("changed");
        assert_eq!(pin_in(file.path()).expect_err("open").kind, Kind::Garbled);
    }
}

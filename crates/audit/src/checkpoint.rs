//! Checkpoints: signed statements about the log that other hosts keep.
//!
//! A checkpoint has the form of C2SP `tlog-checkpoint` (c2sp.org/tlog-checkpoint), which is a C2SP `signed-note` with one
//! Ed25519 signature:
//!
//! ```text
//! agentrouter-secrets/audit/<16 digits of the public key's hash>[/<replica>]     the origin: which log
//! 20852163                                                                       its records
//! CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=                                   the root of the Merkle tree over them
//!
//! — agentrouter-secrets/audit/… <base64: key id (4 bytes) ‖ signature (64 bytes)>
//! ```
//!
//! The tree is that of `tree.rs`. The key pair is derived from the key of the log. If a record that a checkpoint
//! covers is removed or changed, the log has another root at that size. A process with the key cannot avoid that.

use std::fmt;

use agentrouter_crypto::{InternalKey, Sha256, SigningKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::{AuditError, CheckpointError};
use crate::tree::Tree;

/// Takes the place of the previous mac when the key pair is derived. No mac has this value.
const KEY_DOMAIN: &[u8; 32] = b"agentrouter audit checkpoint v1\n";
/// The type of Ed25519 in signed notes.
const ED25519: u8 = 1;
/// The longest note that is read, with the signatures of its witnesses.
const MOST_BYTES: usize = 256 * 1024;

/// Signs the checkpoints of one log, and recognises them.
pub(crate) struct Signer {
    key: SigningKey,
    origin: String,
}

/// The content of a checkpoint whose signature was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) size: u64,
    pub(crate) root: [u8; 32],
    pub(crate) extensions: Vec<String>,
}

impl Signer {
    /// The signer of the log with this key. `replica` distinguishes logs with the same key.
    pub(crate) fn new(key: &InternalKey, replica: Option<&str>) -> Result<Self, AuditError> {
        let key = SigningKey::derive(key, KEY_DOMAIN).map_err(|_| AuditError::Key)?;
        let hash = sha256(&[&key.public()]);
        let mut origin = "agentrouter-secrets/audit/".to_owned();
        origin.extend(hash[..8].iter().map(|byte| format!("{byte:02x}")));
        if let Some(replica) = replica {
            origin.push('/');
            origin.push_str(replica);
        }
        Ok(Self { key, origin })
    }

    fn key_id(&self, origin: &str) -> [u8; 4] {
        let hash = sha256(&[origin.as_bytes(), b"\n", &[ED25519], &self.key.public()]);
        [hash[0], hash[1], hash[2], hash[3]]
    }

    /// Whether the log had this origin at some time. A store that moves to PostgreSQL keeps its log, whose origin then gets
    /// the name of the replica; one that moves to SQLite loses it.
    fn is_own(&self, origin: &str) -> bool {
        let continues = |long: &str, short: &str| {
            long.strip_prefix(short).is_some_and(|replica| replica.starts_with('/'))
        };
        origin == self.origin || continues(origin, &self.origin) || continues(&self.origin, origin)
    }

    /// The public key in the form of signed notes, for verifiers on other hosts.
    pub(crate) fn verifier_key(&self) -> String {
        let id = u32::from_be_bytes(self.key_id(&self.origin));
        let key = STANDARD.encode([&[ED25519][..], &self.key.public()].concat());
        format!("{}+{id:08x}+{key}", self.origin)
    }

    /// The signed note of a tree.
    pub(crate) fn sign(&self, tree: &Tree, extensions: &[String]) -> String {
        let mut text = format!("{}\n{}\n{}\n", self.origin, tree.size(), STANDARD.encode(tree.root()));
        for line in extensions {
            text.push_str(line);
            text.push('\n');
        }
        let signature = [&self.key_id(&self.origin)[..], &self.key.sign(text.as_bytes())].concat();
        format!("{text}\n— {} {}\n", self.origin, STANDARD.encode(signature))
    }

    /// Verifies a note. Signatures by others are ignored.
    pub(crate) fn open(&self, note: &str) -> Result<Checkpoint, CheckpointError> {
        if note.len() > MOST_BYTES || note.chars().any(|c| c < ' ' && c != '\n') {
            return Err(CheckpointError::Malformed);
        }
        let end = note.rfind("\n\n").ok_or(CheckpointError::Malformed)?;
        let (text, signatures) = (&note[..=end], &note[end + 2..]);
        let checkpoint = Checkpoint::parse(text).ok_or(CheckpointError::Malformed)?;
        let origin = text.lines().next().filter(|origin| self.is_own(origin));
        let origin = origin.ok_or(CheckpointError::OtherLog)?;
        let id = self.key_id(origin);
        let own = signatures
            .lines()
            .filter_map(|line| line.strip_prefix("— ")?.split_once(' '))
            .filter(|(name, _)| *name == origin)
            .filter_map(|(_, signature)| STANDARD.decode(signature).ok())
            .filter_map(|signature| signature.strip_prefix(&id[..]).map(<[u8]>::to_vec));
        let verified: Vec<bool> = own
            .map(|signature| SigningKey::verify(&self.key.public(), text.as_bytes(), &signature))
            .collect();
        if verified.is_empty() || verified.contains(&false) {
            return Err(CheckpointError::NotSigned);
        }
        Ok(checkpoint)
    }
}

impl Checkpoint {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        lines.next().filter(|origin| !origin.is_empty())?;
        let size = lines.next()?;
        let canonical = size == "0" || (!size.starts_with('0') && size.bytes().all(|b| b.is_ascii_digit()));
        let size = canonical.then(|| size.parse().ok())??;
        let root = STANDARD.decode(lines.next()?).ok()?.try_into().ok()?;
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        extensions.iter().all(|line| !line.is_empty()).then_some(Self { size, root, extensions })
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("origin", &self.origin).finish_non_exhaustive()
    }
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::key;

    fn tree(leaves: u8) -> Tree {
        let mut tree = Tree::default();
        (0..leaves).for_each(|n| tree.push(&[n; 32]));
        tree
    }

    #[test]
    fn a_checkpoint_has_the_form_of_the_specification_and_opens() {
        let signer = Signer::new(&key(1), Some("replica1")).expect("derives");
        let note = signer.sign(&tree(5), &[]);
        let lines: Vec<&str> = note.lines().collect();
        assert!(
            lines[0].starts_with("agentrouter-secrets/audit/") && lines[0].ends_with("/replica1"),
            "{note}"
        );
        assert_eq!((lines[1], lines[2].len(), lines[3], lines.len()), ("5", 44, "", 5));
        assert!(lines[4].starts_with(&format!("— {} ", lines[0])), "{note}");
        let opened = signer.open(&note).expect("opens");
        assert_eq!((opened.size, opened.root, opened.extensions.len()), (5, tree(5).root(), 0));
        // With the signature of a witness, before or after.
        let witness = "— witness.example/w Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n";
        assert_eq!(signer.open(&format!("{note}{witness}")).as_ref(), Ok(&opened));
        let extended = signer.sign(&tree(5), &["one".to_owned(), "two".to_owned()]);
        assert_eq!(signer.open(&extended).expect("opens").extensions, ["one", "two"]);
    }

    #[test]
    fn a_checkpoint_that_was_changed_or_is_of_another_log_is_refused() {
        let signer = Signer::new(&key(1), None).expect("derives");
        let note = signer.sign(&tree(5), &[]);
        let other = Signer::new(&key(2), None).expect("derives");
        assert_eq!(other.open(&note), Err(CheckpointError::OtherLog));
        let [one, two] = ["one", "two"].map(|name| Signer::new(&key(1), Some(name)).expect("derives"));
        assert_eq!(one.open(&two.sign(&tree(5), &[])), Err(CheckpointError::OtherLog));
        assert_eq!(signer.open(&note.replacen("\n5\n", "\n6\n", 1)), Err(CheckpointError::NotSigned));
        for wrong in
            ["", "\n\n", "a\n5\n\n", &note.replacen("\n5\n", "\n05\n", 1), &note.replace('\n', "\r\n")]
        {
            assert_eq!(signer.open(wrong), Err(CheckpointError::Malformed), "{wrong}");
        }
        let unsigned = &note[..note.find("— ").expect("a signature")];
        assert_eq!(signer.open(unsigned), Err(CheckpointError::NotSigned));
        for at in 0..note.len() {
            let mut changed = note.clone().into_bytes();
            changed[at] ^= 1;
            if let Ok(changed) = String::from_utf8(changed) {
                assert!(signer.open(&changed).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn a_log_keeps_its_checkpoints_when_its_store_moves_to_another_engine() {
        let [file, replica] = [None, Some("one")].map(|name| Signer::new(&key(1), name).expect("derives"));
        for (before, after) in [(&file, &replica), (&replica, &file)] {
            let note = before.sign(&tree(5), &["tree".to_owned()]);
            assert_eq!(after.open(&note), before.open(&note));
            assert!(after.open(&note).is_ok());
            assert_eq!(after.open(&note.replacen("\n5\n", "\n6\n", 1)), Err(CheckpointError::NotSigned));
        }
    }

    #[test]
    fn the_verifier_key_is_the_form_of_signed_notes() {
        let signer = Signer::new(&key(1), None).expect("derives");
        let key = signer.verifier_key();
        let parts: Vec<&str> = key.split('+').collect();
        assert_eq!(parts[0], signer.origin);
        assert_eq!(parts[1].len(), 8);
        // Base64 may have plus signs of its own.
        let public = STANDARD.decode(parts[2..].join("+")).expect("base64");
        assert_eq!((public[0], public.len()), (ED25519, 33));
    }
}

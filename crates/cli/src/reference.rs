//! Secret reference: the text that names one secret in a flag, a mapping file or a template.
//!
//! ```text
//! reference = name | "sm://" realm "/" name [ "#" version ]
//! ```
//!
//! A plain name belongs to the realm of the command. The server has the rules of names and realms. This module
//! only splits a reference into its parts.

use std::fmt;
use std::str::FromStr;

/// How a full reference begins.
pub(crate) const SCHEME: &str = "sm://";

const RULE: &str = "write it as NAME or sm://REALM/NAME or sm://REALM/NAME#VERSION";

/// One secret, perhaps one version of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// The realm. None means that of the command.
    pub(crate) realm: Option<String>,
    /// The name.
    pub(crate) name: String,
    /// The version. None means the active one.
    pub(crate) version: Option<i32>,
}

/// A secret whose realm is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResolvedReference {
    /// The realm.
    pub(crate) realm: String,
    /// The name.
    pub(crate) name: String,
    /// The version. None means the active one.
    pub(crate) version: Option<i32>,
}

impl FromStr for Reference {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_part = |part: &str| !part.is_empty() && !part.contains(['/', '#', ':', ' ', '\t']);
        let Some(address) = text.strip_prefix(SCHEME) else {
            return if is_part(text) {
                Ok(Self { realm: None, name: text.to_owned(), version: None })
            } else {
                Err(RULE)
            };
        };
        let (place, version) = match address.split_once('#') {
            Some((place, number)) => (place, Some(number.parse().ok().filter(|n| *n > 0).ok_or(RULE)?)),
            None => (address, None),
        };
        match place.split_once('/') {
            Some((realm, name)) if is_part(realm) && is_part(name) => {
                Ok(Self { realm: Some(realm.to_owned()), name: name.to_owned(), version })
            }
            _ => Err(RULE),
        }
    }
}

impl fmt::Display for ResolvedReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.realm, self.name)?;
        self.version.map_or(Ok(()), |version| write!(f, "#{version}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_a_name_or_a_full_address() {
        let parsed = |text: &str| text.parse::<Reference>().map(|r| (r.realm, r.name, r.version));
        assert_eq!(parsed("openai.key"), Ok((None, "openai.key".into(), None)));
        assert_eq!(parsed("sm://llm/openai"), Ok((Some("llm".into()), "openai".into(), None)));
        assert_eq!(parsed("sm://llm/openai#3"), Ok((Some("llm".into()), "openai".into(), Some(3))));
        for wrong in ["", "a/b", "a b", "sm://", "sm://a", "sm:///b", "sm://a/", "sm://a/b#", "sm://a/b#0"] {
            assert_eq!(parsed(wrong), Err(RULE), "{wrong:?}");
        }
        for wrong in ["sm://a/b/c", "sm://a/b#x", "sm://a/b#1#2", "sm:/a/b", "vault://a/b"] {
            assert_eq!(parsed(wrong), Err(RULE), "{wrong:?}");
        }
    }
}

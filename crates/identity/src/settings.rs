//! The settings of issuers and rules: the tables `[[issuer]]` and `[[issuer.rule]]` of the config file.
//!
//! `docs/identity.md` documents them. An error names the issuer, the rule and the setting.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentrouter_model::{Owner, Realm, Scope, ScopeSet};
use jsonwebtoken::Algorithm;
use serde::Deserialize;

use crate::claims::Claims;

/// The algorithms that can be named. Symmetric ones and `none` cannot: their key would have to be secret, or nothing.
const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];
/// The longest name of an issuer or a rule, in characters.
const NAME: usize = 64;
/// The longest lifetime that can be allowed.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Issuers or rules that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}{what}")]
pub struct SettingsError {
    /// The issuer and the rule, with a colon and a space. Empty if they are unknown.
    place: String,
    what: String,
}

/// All `[[issuer]]` of a config file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentitySettings {
    /// The issuers of tokens.
    pub(crate) issuers: Vec<IssuerSettings>,
    /// The authorities of certificates.
    pub(crate) certificates: Option<CertificateSettings>,
}

/// The `[[issuer]]` with `client-ca`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateSettings {
    pub(crate) name: String,
    /// A PEM file with the certificates of the authorities.
    client_ca: PathBuf,
    rules: Vec<Rule>,
}

/// An `[[issuer]]` of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IssuerSettings {
    /// Its name, for the audit log.
    pub(crate) name: String,
    /// The claim `iss` of its tokens.
    pub(crate) issuer: String,
    /// One of these is in the claim `aud`.
    pub(crate) audiences: Vec<String>,
    pub(crate) keys: Document,
    pub(crate) algorithms: Vec<Algorithm>,
    /// The longest time between `iat` and `exp`.
    pub(crate) max_lifetime: Duration,
    /// The URL of a list of revoked tokens.
    pub(crate) revocations: Option<String>,
    /// A PEM file with the certificates that its URLs are verified by.
    pub(crate) ca_file: Option<PathBuf>,
    /// A file with a bearer token for its URLs.
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) rules: Vec<Rule>,
}

/// Where a key set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Document {
    Url(String),
    File(PathBuf),
}

/// One `[[issuer.rule]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) name: String,
    /// Claims, and what they must be. At least one.
    matches: BTreeMap<String, Pattern>,
    pub(crate) user: User,
    pub(crate) scopes: ScopeSet,
    pub(crate) realm: Realm,
    pub(crate) realms: Option<Vec<Realm>>,
    pub(crate) rate: Option<NonZeroU32>,
}

/// The user as which a caller acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum User {
    Fixed(Owner),
    /// The text of a claim.
    Claim(String),
}

/// A text, or all texts with a prefix: `gateway`, `gateway:*`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Exact(String),
    Prefix(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct IssuerTable {
    name: String,
    #[serde(default, alias = "client_ca")]
    client_ca: Option<PathBuf>,
    #[serde(default)]
    issuer: String,
    #[serde(default)]
    audience: OneOrMore,
    #[serde(default)]
    jwks: String,
    #[serde(default)]
    algorithms: Option<Vec<String>>,
    #[serde(default, alias = "max_lifetime")]
    max_lifetime: Option<String>,
    #[serde(default)]
    revocations: Option<String>,
    #[serde(default, alias = "ca_file")]
    ca_file: Option<PathBuf>,
    #[serde(default, alias = "token_file")]
    token_file: Option<PathBuf>,
    #[serde(default)]
    rule: Vec<toml::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RuleTable {
    #[serde(default)]
    name: Option<String>,
    #[serde(rename = "match")]
    matches: BTreeMap<String, String>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default, alias = "user_claim")]
    user_claim: Option<String>,
    scopes: Vec<String>,
    #[serde(default)]
    realm: Option<String>,
    #[serde(default)]
    realms: Option<Vec<String>>,
    #[serde(default, alias = "key_rate")]
    key_rate: Option<u32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl Default for OneOrMore {
    fn default() -> Self {
        Self::More(Vec::new())
    }
}

impl IdentitySettings {
    /// Reads the value of `issuer` in the config file.
    ///
    /// # Errors
    /// The first fault.
    pub fn parse(value: &toml::Value) -> Result<Self, SettingsError> {
        let tables =
            value.as_array().ok_or_else(|| fault("", "'issuer' must be tables: write [[issuer]]"))?;
        let (mut all, mut names) = (Self::default(), BTreeSet::new());
        for (number, value) in (1..).zip(tables) {
            let named = value.get("name").and_then(toml::Value::as_str).filter(|name| is_name(name));
            let place = named.map_or_else(|| format!("issuer {number}: "), self::place);
            let table: IssuerTable = value.clone().try_into().map_err(|error| unreadable(&place, &error))?;
            if !is_name(&table.name) {
                return Err(fault(&place, "name must be 1 to 64 characters of A-Z a-z 0-9 . _ -"));
            }
            if !names.insert(table.name.clone()) {
                return Err(fault(&place, "another issuer has the same name"));
            }
            if table.client_ca.is_none() {
                let issuer = IssuerSettings::of(table, &place)?;
                let is_same = |other: &&IssuerSettings| {
                    other.issuer == issuer.issuer
                        && other.audiences.iter().any(|one| issuer.audiences.contains(one))
                };
                if let Some(other) = all.issuers.iter().find(is_same) {
                    let what = format!(
                        "issuer '{}' has the same issuer and audience: choose another audience",
                        other.name
                    );
                    return Err(fault(&place, &what));
                }
                all.issuers.push(issuer);
            } else if all.certificates.is_none() {
                all.certificates = Some(CertificateSettings::of(table, &place)?);
            } else {
                return Err(fault(
                    &place,
                    "another issuer has client-ca: put all certificates into its file",
                ));
            }
        }
        Ok(all)
    }

    /// The number of issuers.
    pub fn len(&self) -> usize {
        self.issuers.len() + usize::from(self.certificates.is_some())
    }

    /// Whether there is no issuer.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The PEM file with the authorities of client certificates, if there is one.
    pub fn client_ca(&self) -> Option<&Path> {
        self.certificates.as_ref().map(|certificates| certificates.client_ca.as_path())
    }
}

impl CertificateSettings {
    fn of(table: IssuerTable, place: &str) -> Result<Self, SettingsError> {
        let has_tokens = !table.issuer.is_empty()
            || !table.jwks.is_empty()
            || !matches!(&table.audience, OneOrMore::More(none) if none.is_empty())
            || table.algorithms.is_some()
            || table.max_lifetime.is_some()
            || table.revocations.is_some()
            || table.ca_file.is_some()
            || table.token_file.is_some();
        if has_tokens {
            return Err(fault(
                place,
                "client-ca is for certificates: beside it there are only name and rules",
            ));
        }
        let rules = Rule::parse_all(place, &table.rule)?;
        if rules.iter().any(|rule| rule.matches.keys().any(|claim| claim != "sub")) {
            return Err(fault(place, "a certificate has the claim sub alone"));
        }
        Ok(Self { name: table.name, client_ca: table.client_ca.unwrap_or_default(), rules })
    }

    /// The first rule that matches.
    pub(crate) fn rule(&self, claims: &Claims) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.is_match(claims))
    }
}

impl IssuerSettings {
    fn of(table: IssuerTable, place: &str) -> Result<Self, SettingsError> {
        let fail = |what: &str| Err(fault(place, what));
        if table.issuer.is_empty() {
            return fail("issuer must be the claim 'iss' of its tokens");
        }
        let audiences = match table.audience {
            OneOrMore::One(one) => vec![one],
            OneOrMore::More(more) => more,
        };
        if audiences.is_empty() || audiences.iter().any(String::is_empty) {
            return fail("audience must be one or more texts, none empty");
        }
        let keys = match table.jwks.split_once("://") {
            Some(_) if is_safe(&table.jwks) => Document::Url(table.jwks),
            None if !table.jwks.is_empty() => Document::File(table.jwks.into()),
            _ => {
                return fail(
                    "jwks must be a file or an address that begins with https:// (http:// only for loopback)",
                );
            }
        };
        let algorithms = match table.algorithms {
            None => vec![Algorithm::RS256, Algorithm::ES256],
            Some(names) => {
                names.iter().map(|name| algorithm(name)).collect::<Option<Vec<_>>>().unwrap_or_default()
            }
        };
        if algorithms.is_empty() {
            let names: Vec<_> = ALGORITHMS.iter().map(|(name, _)| *name).collect();
            return fail(&format!("algorithms must be some of {}", names.join(", ")));
        }
        let max_lifetime = match table.max_lifetime.as_deref().map(humantime::parse_duration) {
            None => Duration::from_secs(60 * 60),
            Some(Ok(time)) if !time.is_zero() && time <= LONGEST => time,
            Some(_) => {
                return fail("max-lifetime must be a duration such as 1h, more than 0 and at most 366 days");
            }
        };
        if table.revocations.as_deref().is_some_and(|url| !is_safe(url)) {
            return fail(
                "revocations must be an address that begins with https:// (http:// only for loopback)",
            );
        }
        let rules = Rule::parse_all(place, &table.rule)?;
        Ok(Self {
            name: table.name,
            issuer: table.issuer,
            audiences,
            keys,
            algorithms,
            max_lifetime,
            revocations: table.revocations,
            ca_file: table.ca_file,
            token_file: table.token_file,
            rules,
        })
    }

    /// Whether keys and revocations come from the same places.
    pub(crate) fn has_same_sources(&self, other: &Self) -> bool {
        (&self.name, &self.issuer, &self.keys, &self.revocations, &self.ca_file, &self.token_file)
            == (
                &other.name,
                &other.issuer,
                &other.keys,
                &other.revocations,
                &other.ca_file,
                &other.token_file,
            )
    }

    /// The first rule that matches.
    pub(crate) fn rule(&self, claims: &Claims) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.is_match(claims))
    }
}

impl Rule {
    fn parse_all(issuer: &str, values: &[toml::Value]) -> Result<Vec<Self>, SettingsError> {
        if values.is_empty() {
            return Err(fault(
                issuer,
                "it has no rule: add [[issuer.rule]], otherwise all of its callers are refused",
            ));
        }
        let mut rules: Vec<Self> = Vec::with_capacity(values.len());
        for (number, value) in (1..).zip(values) {
            let rule = Self::parse(issuer, number, value)?;
            if rules.iter().any(|other| other.name == rule.name) {
                return Err(fault(issuer, &format!("two rules have the name '{}'", rule.name)));
            }
            rules.push(rule);
        }
        Ok(rules)
    }

    fn parse(issuer: &str, number: usize, value: &toml::Value) -> Result<Self, SettingsError> {
        let place = format!("{issuer}rule {number}: ");
        let table: RuleTable = value.clone().try_into().map_err(|error| unreadable(&place, &error))?;
        let fail = |what: &str| Err(fault(&place, what));
        let name = table.name.unwrap_or_else(|| number.to_string());
        if !is_name(&name) {
            return fail("name must be 1 to 64 characters of A-Z a-z 0-9 . _ -");
        }
        if table.matches.is_empty() {
            return fail(
                "match must name a claim, such as match = { sub = \"system:serviceaccount:gateway:*\" }",
            );
        }
        let mut matches = BTreeMap::new();
        for (claim, pattern) in table.matches {
            let Some(pattern) = Pattern::parse(&pattern) else {
                return fail(&format!("match.{claim} must be a text, or a text with one '*' at its end"));
            };
            matches.insert(claim, pattern);
        }
        let user = match (table.user, table.user_claim) {
            (Some(user), None) => match Owner::parse(&user) {
                Ok(user) => User::Fixed(user),
                Err(error) => return fail(&format!("user {}", error.rule())),
            },
            (None, Some(claim)) if !claim.is_empty() => User::Claim(claim),
            _ => return fail("it needs either user or user-claim"),
        };
        let scopes = table.scopes.iter().map(|scope| Scope::parse(scope)).collect::<Result<ScopeSet, _>>();
        let scopes = match scopes {
            Ok(scopes) if !scopes.is_empty() => scopes,
            Ok(_) => return fail("scopes must not be empty"),
            Err(error) => return fail(&format!("each of scopes {error}")),
        };
        let parse = |realm: &String| {
            Realm::parse(realm).map_err(|error| fault(&place, &format!("realm {}", error.rule())))
        };
        let realms =
            table.realms.map(|realms| realms.iter().map(parse).collect::<Result<Vec<_>, _>>()).transpose()?;
        if realms.as_ref().is_some_and(Vec::is_empty) {
            return fail("realms must not be empty; leave it out for all realms");
        }
        let realm = match (&table.realm, &realms) {
            (Some(realm), _) => parse(realm)?,
            (None, Some(realms)) => realms[0].clone(),
            (None, None) => Realm::default(),
        };
        if realms.as_ref().is_some_and(|realms| !realms.contains(&realm)) {
            return fail("realm must be one of realms");
        }
        let rate = match table.key_rate.map(NonZeroU32::new) {
            None => None,
            Some(Some(rate)) => Some(rate),
            Some(None) => return fail("key-rate must be 1 or more; leave it out for the limit of API keys"),
        };
        Ok(Self { name, matches, user, scopes, realm, realms, rate })
    }

    fn is_match(&self, claims: &Claims) -> bool {
        self.matches.iter().all(|(claim, pattern)| claims.has(claim, |text| pattern.is_match(text)))
    }

    /// The user of a token that matches. `None` if its claim is none, or names the system.
    pub(crate) fn user(&self, claims: &Claims) -> Option<Owner> {
        match &self.user {
            User::Fixed(user) => Some(user.clone()),
            User::Claim(claim) => Owner::parse(claims.text(claim)?).ok().filter(|user| !user.is_system()),
        }
    }
}

impl Pattern {
    fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('*') {
            Some(prefix) if !prefix.contains('*') => Some(Self::Prefix(prefix.to_owned())),
            None if !text.contains('*') && !text.is_empty() => Some(Self::Exact(text.to_owned())),
            _ => None,
        }
    }

    fn is_match(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == text,
            Self::Prefix(prefix) => text.starts_with(prefix.as_str()),
        }
    }
}

fn place(issuer: &str) -> String {
    format!("issuer '{issuer}': ")
}

fn fault(place: &str, what: &str) -> SettingsError {
    SettingsError { place: place.to_owned(), what: what.to_owned() }
}

/// The library's message without the line of the file.
fn unreadable(place: &str, error: &toml::de::Error) -> SettingsError {
    fault(place, error.message())
}

fn is_name(text: &str) -> bool {
    (1..=NAME).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn algorithm(name: &str) -> Option<Algorithm> {
    ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
}

/// Whether nobody on the way can change what the URL returns: it has TLS, or does not leave this machine.
fn is_safe(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() || authority.contains('@') {
        return false;
    }
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let is_loopback =
        || host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    scheme == "https" || (scheme == "http" && is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        [[issuer]]
        name = "k8s-prod"
        issuer = "https://kubernetes.default.svc"
        audience = "agentrouter-secrets"
        jwks = "https://127.0.0.1/openid/v1/jwks"
        algorithms = ["RS256", "ES256"]
        max-lifetime = "1h"
        revocations = "https://idp.example.com/v1/tokens/revocations"
        [[issuer.rule]]
        match = { sub = "system:serviceaccount:gateway:*" }
        user = "system"
        scopes = ["secrets/read/internal"]
        realms = ["llm-keys"]
        key-rate = 5000
    "#;

    fn read_all(text: &str) -> Result<IdentitySettings, String> {
        let table: toml::Table = text.parse().expect("TOML");
        IdentitySettings::parse(table.get("issuer").expect("an issuer")).map_err(|error| error.to_string())
    }

    fn read(text: &str) -> Result<Vec<IssuerSettings>, String> {
        read_all(text).map(|all| all.issuers)
    }

    fn claims(text: &str) -> Claims {
        serde_json::from_str(text).expect("claims")
    }

    #[test]
    fn the_settings_of_the_documentation_are_read() {
        let [issuer] = read(GOOD).expect("valid").try_into().expect("one");
        assert_eq!(issuer.algorithms, [Algorithm::RS256, Algorithm::ES256]);
        assert_eq!(issuer.max_lifetime, Duration::from_secs(3600));
        let rule = issuer.rule(&claims(r#"{"sub":"system:serviceaccount:gateway:a"}"#)).expect("it matches");
        assert_eq!((rule.name.as_str(), rule.rate), ("1", NonZeroU32::new(5000)));
        assert_eq!(rule.realm.as_str(), "llm-keys");
        assert!(issuer.rule(&claims(r#"{"sub":"system:serviceaccount:gatewaz:a"}"#)).is_none());
        assert!(issuer.rule(&claims("{}")).is_none());
    }

    #[test]
    fn the_first_rule_that_matches_applies() {
        let more = format!(
            "{GOOD}\n[[issuer.rule]]\nname = \"ci\"\nmatch = {{ sub = \"*\", repository = \"acme/gateway\" }}\nuser-claim = \"actor\"\nscopes = [\"secrets/read\"]"
        );
        let [issuer] = read(&more).expect("valid").try_into().expect("one");
        let ci = claims(r#"{"sub":"x","repository":"acme/gateway","actor":"octocat"}"#);
        let rule = issuer.rule(&ci).expect("it matches");
        assert_eq!(rule.name, "ci");
        assert_eq!(rule.user(&ci), Some(Owner::parse("octocat").expect("a user")));
        assert_eq!(rule.user(&claims(r#"{"actor":"system"}"#)), None, "no claim makes a caller the system");
        assert_eq!(rule.user(&claims("{}")), None);
        assert!(issuer.rule(&claims(r#"{"sub":"x","repository":"acme/other"}"#)).is_none());
    }

    #[test]
    fn an_error_names_the_issuer_the_rule_and_the_setting() {
        let with = |from: &str, to: &str| read(&GOOD.replace(from, to)).expect_err(to);
        for algorithm in ["HS256", "none", "rs256", ""] {
            let error = with("\"RS256\"", &format!("\"{algorithm}\""));
            assert!(error.starts_with("issuer 'k8s-prod': algorithms must be some of RS256, "), "{error}");
        }
        for (from, to, expected) in [
            ("k8s-prod", "k8s prod", "issuer 1: name must be 1 to 64 characters"),
            (
                "https://127.0.0.1/",
                "http://idp.example.com/",
                "issuer 'k8s-prod': jwks must be a file or an address",
            ),
            (
                "https://127.0.0.1/",
                "ftp://127.0.0.1/",
                "issuer 'k8s-prod': jwks must be a file or an address",
            ),
            ("https://idp", "http://idp", "issuer 'k8s-prod': revocations must be an address"),
            ("https://idp", "https://u:p@idp", "issuer 'k8s-prod': revocations must be an address"),
            ("\"1h\"", "\"0s\"", "issuer 'k8s-prod': max-lifetime must be a duration"),
            ("\"agentrouter-secrets\"", "[]", "issuer 'k8s-prod': audience must be one or more texts"),
            ("audience = ", "audiences = ", "issuer 'k8s-prod': unknown field `audiences`"),
            ("gateway:*", "*:*", "issuer 'k8s-prod': rule 1: match.sub must be a text"),
            ("gateway:*\"", "gateway:*\", aud = \"\"", "issuer 'k8s-prod': rule 1: match.aud must be a text"),
            (
                "secrets/read/internal",
                "secrets/all",
                "issuer 'k8s-prod': rule 1: each of scopes must be one of",
            ),
            ("[\"secrets/read/internal\"]", "[]", "issuer 'k8s-prod': rule 1: scopes must not be empty"),
            ("user = \"system\"", "", "issuer 'k8s-prod': rule 1: it needs either user or user-claim"),
            ("\"llm-keys\"", "\"LLM keys\"", "issuer 'k8s-prod': rule 1: realm must be"),
            (
                "[\"llm-keys\"]",
                "[\"llm-keys\"]\nrealm = \"mcp\"",
                "issuer 'k8s-prod': rule 1: realm must be one of",
            ),
            ("5000", "0", "issuer 'k8s-prod': rule 1: key-rate must be 1 or more"),
            ("5000", "-1", "issuer 'k8s-prod': rule 1: "),
        ] {
            let error = with(from, to);
            assert!(error.starts_with(expected), "{error}");
        }
        let no_rule = GOOD.split("[[issuer.rule]]").next().expect("a part");
        assert!(read(no_rule).expect_err("none").starts_with("issuer 'k8s-prod': it has no rule"));
        let twin = GOOD.replace("k8s-prod", "twin");
        assert_eq!(
            read(&format!("{GOOD}{twin}")).expect_err("twice"),
            "issuer 'twin': issuer 'k8s-prod' has the same issuer and audience: choose another audience"
        );
        assert_eq!(
            read(&format!("{GOOD}{GOOD}")).expect_err("twice"),
            "issuer 'k8s-prod': another issuer has the same name"
        );
    }

    #[test]
    fn certificates_have_one_issuer_whose_rules_match_their_name() {
        let mesh = |more: &str, claim: &str| {
            format!(
                "[[issuer]]\nname = \"mesh\"\nclient-ca = \"/ca.pem\"\n{more}\n[[issuer.rule]]\nmatch = {{ {claim} = \"spiffe://a/*\" }}\nuser = \"ann\"\nscopes = [\"secrets/read\"]\n"
            )
        };
        let all = read_all(&format!("{GOOD}{}", mesh("", "sub"))).expect("valid");
        assert_eq!((all.len(), all.client_ca()), (2, Some(Path::new("/ca.pem"))));
        let certificates = all.certificates.expect("there");
        assert!(certificates.rule(&Claims::of_subject("spiffe://a/b")).is_some());
        assert!(certificates.rule(&Claims::of_subject("spiffe://b/b")).is_none());
        for (text, expected) in [
            (mesh("jwks = \"x\"", "sub"), "issuer 'mesh': client-ca is for certificates"),
            (mesh("audience = \"x\"", "sub"), "issuer 'mesh': client-ca is for certificates"),
            (mesh("", "email"), "issuer 'mesh': a certificate has the claim sub alone"),
            (
                mesh("", "sub") + &mesh("", "sub").replace("mesh", "two"),
                "issuer 'two': another issuer has client-ca",
            ),
        ] {
            let error = read_all(&text).expect_err(expected);
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn an_address_without_tls_is_of_this_machine() {
        for good in ["https://a", "http://localhost:8", "http://127.0.0.1:8/x", "http://[::1]:8/x?y"] {
            assert!(is_safe(good), "{good}");
        }
        for bad in ["http://a", "http://127.0.0.1.a", "http://localhost@a", "https://", "file:///x", "x"] {
            assert!(!is_safe(bad), "{bad}");
        }
    }
}

//! Check of the dependencies between the crates of the workspace, read from `cargo metadata`.
//!
//! Dependencies point inward (see `ARCHITECTURE.md`), and [`CRATES`] lists all that are allowed. A crate without a row, a row
//! without a crate, and a dependency that is not in the table fail the step. Tests may also use the crates of their row's
//! `tests`. Only tests may use the testkit. [`FENCES`] limits libraries to certain crates, so that SQL stays in the engines,
//! ciphers in `crypto`, and wire types outside the inner crates.
//!
//! Only direct dependencies are checked.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use serde::Deserialize;

use crate::process::Workspace;
use crate::step::Outcome;

/// One crate and the crates of this workspace that it may use.
struct Row {
    name: &'static str,
    /// In `[dependencies]` and `[build-dependencies]`.
    uses: &'static [&'static str],
    /// In `[dev-dependencies]`, beside those of `uses`.
    tests: &'static [&'static str],
}

const fn row(name: &'static str, uses: &'static [&'static str], tests: &'static [&'static str]) -> Row {
    Row { name, uses, tests }
}

const MODEL: &str = "agentrouter-model";
const CRYPTO: &str = "agentrouter-crypto";
const KEYRING: &str = "agentrouter-keyring";
const IDENTITY: &str = "agentrouter-identity";
const LEASE: &str = "agentrouter-lease";
const SQLITE: &str = "agentrouter-sqlite";
const POSTGRES: &str = "agentrouter-postgres";
const SCHEDULING: &str = "agentrouter-scheduling";
const STORE: &str = "agentrouter-store";
const AUDIT: &str = "agentrouter-audit";
const SERVICE: &str = "agentrouter-service";
const INSTANCE: &str = "agentrouter-instance";
const MAINTENANCE: &str = "agentrouter-maintenance";
const API: &str = "agentrouter-api";
const KMS_API: &str = "agentrouter-kms-api";
const SERVER: &str = "agentrouter-secrets";
const KMS: &str = "agentrouter-secrets-kms";
const SDK: &str = "agentrouter-sdk";
const CLI: &str = "agentrouter-cli";
const TESTKIT: &str = "agentrouter-testkit";
const BENCH: &str = "agentrouter-bench";

/// From the inside out.
const CRATES: &[Row] = &[
    row(MODEL, &[], &[]),
    row(SCHEDULING, &[], &[]),
    row(KMS_API, &[], &[KMS_API]),
    row(CRYPTO, &[MODEL], &[TESTKIT]),
    row(KEYRING, &[CRYPTO, MODEL], &[TESTKIT]),
    row(IDENTITY, &[CRYPTO, MODEL], &[]),
    row(LEASE, &[MODEL], &[]),
    row(STORE, &[LEASE, MODEL], &[]),
    row(SQLITE, &[STORE, MODEL], &[]),
    row(POSTGRES, &[STORE, LEASE, MODEL], &[SQLITE]),
    row(AUDIT, &[MODEL, CRYPTO], &[TESTKIT]),
    row(SERVICE, &[MODEL, CRYPTO, IDENTITY, KEYRING, LEASE, STORE, AUDIT], &[TESTKIT]),
    row(
        INSTANCE,
        &[IDENTITY, SERVICE, STORE, SQLITE, POSTGRES, KEYRING, KMS_API, CRYPTO, AUDIT, MODEL],
        &[TESTKIT],
    ),
    row(MAINTENANCE, &[INSTANCE, SERVICE, STORE, SQLITE, POSTGRES, KEYRING, CRYPTO, AUDIT, MODEL], &[]),
    row(API, &[MODEL], &[TESTKIT]),
    row(
        SERVER,
        &[
            API,
            MAINTENANCE,
            INSTANCE,
            SERVICE,
            IDENTITY,
            LEASE,
            STORE,
            SQLITE,
            POSTGRES,
            KEYRING,
            CRYPTO,
            AUDIT,
            SCHEDULING,
            MODEL,
        ],
        &[KMS_API, SDK, TESTKIT],
    ),
    row(KMS, &[KMS_API, CRYPTO, MODEL], &[TESTKIT]),
    row(SDK, &[API], &[MODEL, TESTKIT]),
    row(CLI, &[SDK], &[API, MODEL, TESTKIT]),
    row(TESTKIT, &[SERVER, API, SERVICE, STORE, SQLITE, POSTGRES, KEYRING, CRYPTO, AUDIT, MODEL, SDK], &[]),
    row(BENCH, &[], &[]),
    row("agentrouter-instructions", &[], &[API, SERVICE, IDENTITY, MODEL, TESTKIT]),
    row("xtask", &[], &[API, MODEL]),
];

/// Libraries, and the crates that may use them. Tests and the testkit may use any.
const FENCES: &[(&str, &[&str])] = &[
    ("aes", &[CRYPTO]),
    // The benchmark measures the derivation from a passphrase by itself.
    ("argon2", &[CRYPTO, BENCH]),
    // The plugin encrypts with the content of a secret of Google Secret Manager itself.
    ("aws-lc-rs", &[CRYPTO, KMS]),
    ("aws-config", &[KMS]),
    ("aws-sdk-kms", &[KMS]),
    ("azure_core", &[KMS]),
    ("azure_identity", &[KMS]),
    ("azure_security_keyvault_keys", &[KMS]),
    ("cryptoki", &[KMS]),
    ("google-cloud-auth", &[KMS]),
    ("google-cloud-gax", &[KMS]),
    ("google-cloud-kms-v1", &[KMS]),
    ("google-cloud-secretmanager-v1", &[KMS]),
    ("jsonwebtoken", &[IDENTITY]),
    ("rusqlite", &[SQLITE]),
    ("tokio-postgres", &[POSTGRES]),
    ("buffa", &[API, KMS_API, SERVER, SDK]),
    ("buffa-types", &[API, SERVER, SDK]),
    ("connectrpc", &[API, KMS_API, KMS, SERVER, SDK]),
    ("connectrpc-build", &[API, KMS_API]),
];

/// The part of the output of `cargo metadata` that is read.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `null` for an ordinary dependency, otherwise `build` or `dev`.
    kind: Option<String>,
    /// The path of a dependency in the workspace.
    path: Option<String>,
}

/// The step.
///
/// # Errors
/// When a dependency is not in the table. One line is printed for each.
pub(crate) fn check(workspace: &Workspace) -> Result<Outcome> {
    let arguments = ["metadata", "--format-version", "1", "--no-deps"];
    let metadata: Metadata = serde_json::from_slice(&workspace.cargo(&arguments).output()?)?;
    let wrong = faults(&metadata);
    for fault in &wrong {
        println!("{fault}");
    }
    if !wrong.is_empty() {
        bail!("{} dependencies are not in the table of xtask/src/arrows.rs", wrong.len());
    }
    Ok(Outcome::Passed(format!("{} crates", metadata.packages.len())))
}

/// All faults, one sentence each, in the order of the crates.
fn faults(metadata: &Metadata) -> Vec<String> {
    let mut faults = Vec::new();
    let names: BTreeSet<_> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    for row in CRATES.iter().filter(|row| !names.contains(row.name)) {
        faults.push(format!("{} has a row and is no crate of the workspace", row.name));
    }
    for package in &metadata.packages {
        let Some(row) = CRATES.iter().find(|row| row.name == package.name) else {
            faults.push(format!("{} has no row", package.name));
            continue;
        };
        faults.extend(package.dependencies.iter().filter_map(|dependency| fault(row, dependency)));
    }
    faults
}

/// The fault of one dependency of the crate of `row`, if it has one.
fn fault(row: &Row, dependency: &Dependency) -> Option<String> {
    let name = dependency.name.as_str();
    let for_tests = dependency.kind.as_deref() == Some("dev");
    if dependency.path.is_some() {
        let allowed = row.uses.contains(&name) || (for_tests && row.tests.contains(&name));
        let in_tests = if for_tests { " in its tests" } else { "" };
        return (!allowed).then(|| format!("{} may not depend on {name}{in_tests}", row.name));
    }
    let (_, homes) = FENCES.iter().find(|(library, _)| *library == name)?;
    (!for_tests && row.name != TESTKIT && !homes.contains(&row.name))
        .then(|| format!("{} may not depend on {name}, which belongs to {}", row.name, homes.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Metadata with every crate of the table, and these dependencies: (crate, on what, kind, within the workspace).
    fn metadata(dependencies: &[(&str, &str, Option<&str>, bool)]) -> Metadata {
        let package = |name: &str| Package {
            name: name.to_owned(),
            dependencies: dependencies
                .iter()
                .filter(|(from, ..)| *from == name)
                .map(|(_, on, kind, within)| Dependency {
                    name: (*on).to_owned(),
                    kind: kind.map(str::to_owned),
                    path: within.then(|| format!("/there/{on}")),
                })
                .collect(),
        };
        Metadata { packages: CRATES.iter().map(|row| package(row.name)).collect() }
    }

    #[test]
    fn inward_dependencies_pass() {
        let inward = [
            (SERVICE, STORE, None, true),
            (STORE, MODEL, Some("build"), true),
            (AUDIT, TESTKIT, Some("dev"), true),
            (SQLITE, "rusqlite", None, false),
            (MODEL, "rusqlite", Some("dev"), false),
            (TESTKIT, "aws-lc-rs", None, false),
            (MODEL, "jiff", None, false),
        ];
        assert_eq!(faults(&metadata(&inward)), [""; 0]);
    }

    #[test]
    fn an_outward_or_sideways_dependency_fails() {
        for (from, on) in [(MODEL, CRYPTO), (STORE, CRYPTO), (SERVICE, API), (API, SERVICE), (CLI, SERVER)] {
            for kind in [None, Some("build")] {
                let found = faults(&metadata(&[(from, on, kind, true)]));
                assert_eq!(found, [format!("{from} may not depend on {on}")]);
            }
        }
    }

    #[test]
    fn only_tests_may_use_the_testkit() {
        for row in CRATES {
            let found = faults(&metadata(&[(row.name, TESTKIT, None, true)]));
            assert_eq!(found, [format!("{} may not depend on {TESTKIT}", row.name)]);
        }
    }

    #[test]
    fn a_test_may_use_only_the_crates_of_its_row() {
        let found = faults(&metadata(&[(CRYPTO, SERVICE, Some("dev"), true)]));
        assert_eq!(found, [format!("{CRYPTO} may not depend on {SERVICE} in its tests")]);
    }

    #[test]
    fn a_library_outside_its_crates_fails() {
        let found = faults(&metadata(&[(SERVICE, "rusqlite", None, false)]));
        assert_eq!(found, [format!("{SERVICE} may not depend on rusqlite, which belongs to {SQLITE}")]);
    }

    #[test]
    fn a_crate_without_a_row_and_a_row_without_a_crate_fail() {
        let mut crates = metadata(&[]);
        crates.packages[0].name = "agentrouter-util".to_owned();
        assert_eq!(
            faults(&crates),
            [
                format!("{MODEL} has a row and is no crate of the workspace"),
                "agentrouter-util has no row".to_owned()
            ]
        );
    }

    #[test]
    fn the_table_has_no_circle() {
        // Each row may use only rows above it, but for the testkit, which stands outside.
        for (index, row) in CRATES.iter().enumerate() {
            for used in row.uses {
                assert!(CRATES[..index].iter().any(|above| above.name == *used), "{} -> {used}", row.name);
            }
        }
    }
}

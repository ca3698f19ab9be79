//! The measured cases: each has a name and is one row of the table.

use std::fmt;

use crate::operation::{Api, Operation};

/// The engine of the server's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// A server process: its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Setup {
    pub(crate) engine: Engine,
    /// `audit.sync = fsync` instead of `second`.
    pub(crate) fsync: bool,
    pub(crate) tls: bool,
    /// 1,000,000 secrets instead of 10,000.
    pub(crate) million: bool,
}

/// The measured program, and its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    /// nginx with a static file: the baseline.
    Nginx { tls: bool },
    /// The toy: the upper bound.
    Toy,
    /// The server.
    Server {
        api: Api,
        operation: Operation,
        /// Random names, or one name. Ignored for lists and creations.
        random: bool,
        setup: Setup,
    },
}

impl Case {
    /// All cases: each operation over each API in each setup, and the cases that they are compared with.
    pub(crate) fn all() -> Vec<Self> {
        let mut cases = vec![Self::Nginx { tls: false }, Self::Nginx { tls: true }, Self::Toy];
        for setup in Setup::all() {
            for api in Api::ALL {
                for operation in Operation::ALL {
                    let draws = match operation {
                        Operation::Value => &[false, true][..],
                        Operation::Rotate => &[true],
                        Operation::Create | Operation::List => &[false],
                    };
                    cases.extend(draws.iter().map(|&random| Self::Server { api, operation, random, setup }));
                }
            }
        }
        cases
    }

    /// Whether it is measured by default: the plain setup in full, and of the others the cases that change most.
    pub(crate) fn is_usual(&self) -> bool {
        let Self::Server { api, operation, setup, .. } = *self else { return true };
        let Setup { engine, fsync, tls, million } = setup;
        let value = operation == Operation::Value;
        match (engine, fsync, tls, million) {
            (Engine::Sqlite, false, false, false) => api == Api::Rest || api == Api::Grpc || value,
            (Engine::Sqlite, true, false, false) => {
                api == Api::Rest && matches!(operation, Operation::Value | Operation::Create)
            }
            (Engine::Sqlite, false, true, false) => value && matches!(api, Api::Rest | Api::Grpc),
            (Engine::Postgres, false, false, false) => api == Api::Rest,
            _ => false,
        }
    }

    /// Whether it needs a store of a million secrets, which takes minutes to fill.
    pub(crate) fn is_million(&self) -> bool {
        matches!(self, Self::Server { setup: Setup { million: true, .. }, .. })
    }

    /// The case that this one is compared with.
    pub(crate) fn yardstick(&self) -> Self {
        let tls = match self {
            Self::Nginx { tls } => *tls,
            Self::Toy => false,
            Self::Server { setup, .. } => setup.tls,
        };
        Self::Nginx { tls }
    }
}

impl Setup {
    fn all() -> impl Iterator<Item = Self> {
        (0..16_u8).map(|bits| Self {
            engine: if bits & 8 == 0 { Engine::Sqlite } else { Engine::Postgres },
            million: bits & 4 != 0,
            fsync: bits & 2 != 0,
            tls: bits & 1 != 0,
        })
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.engine {
            Engine::Sqlite => "sqlite",
            Engine::Postgres => "postgres",
        })?;
        let marks = [(self.million, ".1m"), (self.fsync, ".fsync"), (self.tls, ".tls")];
        marks.iter().filter(|(on, _)| *on).try_for_each(|(_, mark)| f.write_str(mark))
    }
}

/// `rest.value.one`, and `grpc.value.random.postgres.1m.fsync.tls` where everything differs from the plain setup.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Server { api, operation, random, setup } = self else {
            return f.write_str(match self {
                Self::Nginx { tls: false } => "nginx",
                Self::Nginx { tls: true } => "nginx.tls",
                _ => "toy",
            });
        };
        write!(f, "{}.{}", api.name(), operation.name())?;
        if *operation == Operation::Value {
            f.write_str(if *random { ".random" } else { ".one" })?;
        }
        match setup.to_string().strip_prefix("sqlite") {
            Some(rest) => f.write_str(rest),
            None => write!(f, ".{setup}"),
        }
    }
}

/// The cases to measure, each after the one that it is compared with: those that `only` selects by full name or by a
/// part of it, else `everything`, else the default ones. `million` allows the cases of a million secrets.
pub(crate) fn choose(only: &[String], everything: bool, million: bool) -> Vec<Case> {
    let all = Case::all();
    let names: Vec<_> = all.iter().map(Case::to_string).collect();
    let wanted = |case: &Case| {
        let named = is_named(only, &names, &case.to_string());
        let usual = only.is_empty() && (everything || case.is_usual() || is_usual_million(case));
        (named || usual) && (million || !case.is_million())
    };
    let chosen: Vec<_> = all.iter().copied().filter(wanted).collect();
    let needed = |case: &Case| chosen.contains(case) || chosen.iter().any(|other| other.yardstick() == *case);
    all.into_iter().filter(needed).collect()
}

/// Whether `only` selects `name`: in full, or by a part that is not the full name of any of `all`.
pub(crate) fn is_named(only: &[String], all: &[String], name: &str) -> bool {
    only.iter().any(|part| if all.contains(part) { name == part } else { name.contains(part.as_str()) })
}

/// The cases of a server's profile: the most frequent requests over every API, on the embedded store.
pub(crate) fn training() -> Vec<Case> {
    let wanted = |case: &Case| match case {
        Case::Server { api, operation, random, setup } => {
            let plain = setup.engine == Engine::Sqlite && !setup.million && !setup.fsync;
            let usual = *api == Api::Rest || *operation == Operation::Value;
            plain && if setup.tls { *api == Api::Rest && *random } else { usual }
        }
        _ => false,
    };
    Case::all().into_iter().filter(wanted).collect()
}

/// The cases that a million secrets may change: random reads, and each kind of write.
fn is_usual_million(case: &Case) -> bool {
    let Case::Server { api: Api::Rest, random, operation, setup } = case else { return false };
    setup.million && !setup.fsync && !setup.tls && (*random || *operation != Operation::Value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(cases: &[Case]) -> Vec<String> {
        cases.iter().map(Case::to_string).collect()
    }

    #[test]
    fn every_case_has_a_name_of_its_own() {
        let mut all = names(&Case::all());
        assert_eq!(all.len(), 3 + 16 * 4 * 5);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 3 + 16 * 4 * 5);
        assert!(all.contains(&"rest.value.one".to_owned()));
        assert!(all.contains(&"grpc.value.random.postgres.1m.fsync.tls".to_owned()));
    }

    #[test]
    fn the_usual_ones_have_each_api_engine_and_setting() {
        let usual = names(&choose(&[], false, false));
        for part in ["rest.", "connect-json.", "connect.", "grpc.", ".postgres", ".fsync", ".tls", ".random"]
        {
            assert!(usual.iter().any(|name| name.contains(part)), "{part}");
        }
        for operation in Operation::ALL {
            assert!(usual.iter().any(|name| name.starts_with(&format!("rest.{}", operation.name()))));
        }
        assert!(!usual.iter().any(|name| name.contains(".1m")));
        assert!(names(&choose(&[], false, true)).contains(&"rest.value.random.1m".to_owned()));
    }

    #[test]
    fn a_case_chosen_by_name_runs_after_its_baseline() {
        assert_eq!(
            names(&choose(&["grpc.value.one.tls".to_owned()], false, false)),
            ["nginx.tls", "grpc.value.one.tls"]
        );
        assert_eq!(names(&choose(&["rest.value.one".to_owned()], false, true)), ["nginx", "rest.value.one"]);
        assert!(choose(&["rest.value".to_owned()], false, false).len() > 10);
        assert_eq!(choose(&["no such".to_owned()], false, false), []);
    }
}

//! Test fixtures: the service, the server and PostgreSQL. A dev-dependency only.
//!
//! * [`FixedClock`] changes only when a test sets it. [`SeededRng`] returns the same bytes in every run.
//! * [`TestService`] is a `Service` with a store and an audit log in a temporary directory.
//! * [`Postgres`] is a PostgreSQL server that is stopped and removed when the test process exits.
//! * [`ServerProcess`] is the server's binary on a free port, stopped when it is dropped.

mod clock;
mod process;
mod rng;
mod service;

pub use agentrouter_postgres::testing::{Postgres, Stop};
pub use clock::FixedClock;
pub use process::ServerProcess;
pub use rng::SeededRng;
pub use service::TestService;

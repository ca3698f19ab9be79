//! The secret service in a test's hands. A dev-dependency only.
//!
//! * [`FixedClock`] stands still until a test moves it; [`SeededRng`] gives the same bytes every time.
//! * [`TestService`] is a real `Service` over a real store and audit log in a directory that goes with it.
//! * [`Postgres`] is a real PostgreSQL, stopped and removed when the test's process ends.
//! * [`ServerProcess`] is the real binary on a free port, stopped when it is dropped.

mod clock;
mod process;
mod rng;
mod service;

pub use agentrouter_postgres::testing::{Postgres, Stop};
pub use clock::FixedClock;
pub use process::ServerProcess;
pub use rng::SeededRng;
pub use service::TestService;

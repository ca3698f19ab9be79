//! Scheduling under load: a concurrency limiter with a CoDel queue.
//!
//! The HTTP server takes a [`Permit`] of a [`Limiter`] for each API request.
//!
//! Nothing here depends on the order in which the runtime polls tasks: the tests run on the current-thread and on the
//! multi-thread runtime, and assert the same.
//!
//! Deliberately absent: the kind of the requests, the choice of their limiter, and the response to a rejected caller.

mod capacity;
mod limiter;
mod queue;
mod shed_rate;

pub use capacity::Bounds;
pub use limiter::{Limiter, Permit};
pub use queue::Shed;
pub use shed_rate::ShedRate;

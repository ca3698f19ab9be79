//! Filling a server's store, by its own API: every row is sealed, recorded and written as any other.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::call::{About, Api, Operation};
use crate::load::{Session, Source, Until, scramble};
use crate::subject::Server;

/// The realm that everything is in.
pub(crate) const REALM: &str = "bench";
/// The user of the first key, who owns what is not given to others.
pub(crate) const ADMIN: &str = "admin";
/// The tag of one secret in [`TAGGED`].
pub(crate) const TAG: (&str, &str) = ("env", "prod");
/// How many secrets there are to one that is tagged.
pub(crate) const TAGGED: u64 = 10;
/// A value of the usual length of a provider's key.
pub(crate) const VALUE: &str = "sk-a-provider-key-of-the-usual-length-0123456789";

/// As many at once as begin as they come, however slow the server: of more it would refuse some when they wait for long
/// (an unoptimised build on a busy machine does).
const CONNECTIONS: usize = 16;

/// The name of secret `number`.
pub(crate) fn name(number: u64) -> String {
    format!("provider-key-{number:07}")
}

/// Stores `count` secrets in [`REALM`], numbered from `first` on, each with the owner that `owner` gives its number.
/// Returns how long it took.
///
/// # Errors
/// When one is refused.
pub(crate) fn fill(
    server: &Server,
    first: u64,
    count: u64,
    owner: impl Fn(u64) -> String + 'static,
) -> Result<Duration> {
    let caller = server.caller.clone();
    let mut source = Source::made(move |number| {
        let number = first + number;
        let (name, user) = (name(number), owner(number));
        let tag = scramble(number).is_multiple_of(TAGGED).then_some(TAG);
        let about = About { name: &name, realm: REALM, user: &user, value: VALUE, tag, page_size: 0 };
        caller.request(Api::Rest, Operation::Create, about)
    });
    let target = server.target(Api::Rest, Operation::Create);
    let tally = Session::open_to(&target, CONNECTIONS)?.closed(&mut source, Until::Count(count))?;
    ensure!(tally.served == count, "{} of {count} secrets could not be stored", count - tally.served);
    Ok(tally.time)
}

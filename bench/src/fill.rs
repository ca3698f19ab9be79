//! Fills a server's store through its API: every row is sealed, recorded and written as in production.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::load::{Session, Source, Until, scramble};
use crate::operation::{About, Api, Operation};
use crate::subject::Server;

/// The realm of all secrets.
pub(crate) const REALM: &str = "bench";
/// The user of the first key, the default owner.
pub(crate) const ADMIN: &str = "admin";
/// The tag of one secret in [`TAGGED`].
pub(crate) const TAG: (&str, &str) = ("env", "prod");
/// One secret in this many is tagged.
pub(crate) const TAGGED: u64 = 10;
/// A value of the usual length of a provider's key.
pub(crate) const VALUE: &str = "sk-a-provider-key-of-the-usual-length-0123456789";

/// A concurrency that the server admits without a queue. A slow server (an unoptimised build on a busy machine) sheds some
/// requests of a higher one.
const CONNECTIONS: usize = 16;

/// The name of secret `number`.
pub(crate) fn name(number: u64) -> String {
    format!("provider-key-{number:07}")
}

/// Stores `count` secrets in [`REALM`], numbered from `first` on, each with the owner that `owner` gives its number.
/// Returns how long it took.
///
/// # Errors
/// When a secret is refused.
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

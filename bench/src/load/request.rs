//! Requests, and the order in which a load sends them.

/// One request, ready for the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// HTTP/1.1: the head with its empty line. HTTP/2: nothing, the head is the connection's.
    pub(crate) head: Vec<u8>,
    /// The body; for gRPC with the five bytes before the message.
    pub(crate) body: Vec<u8>,
}

/// The order of the requests of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Draw {
    /// One after the other, repeatedly.
    InOrder,
    /// At random, evenly distributed, the same in every run.
    AtRandom,
}

/// An endless source of requests.
pub(crate) enum Source {
    /// From a set.
    Set { requests: Vec<Request>, draw: Draw, at: u64 },
    /// Generated, from the number of each.
    Made { make: Box<dyn FnMut(u64) -> Request>, count: u64, last: Request },
}

impl Source {
    /// A source over a set, which must not be empty.
    pub(crate) fn set(requests: Vec<Request>, draw: Draw) -> Self {
        assert!(!requests.is_empty(), "a source needs a request");
        Self::Set { requests, draw, at: 0 }
    }

    /// A source that generates each request when it is due, so that no two are the same.
    pub(crate) fn made(make: impl FnMut(u64) -> Request + 'static) -> Self {
        Self::Made { make: Box::new(make), count: 0, last: Request::default() }
    }

    /// The next one.
    pub(crate) fn next(&mut self) -> &Request {
        match self {
            Self::Set { requests, draw, at } => {
                let count = requests.len() as u64;
                let index = match draw {
                    Draw::InOrder => *at % count,
                    Draw::AtRandom => scramble(*at) % count,
                };
                *at += 1;
                &requests[usize::try_from(index).unwrap_or(0)]
            }
            Self::Made { make, count, last } => {
                *last = make(*count);
                *count += 1;
                last
            }
        }
    }
}

/// An even distribution over all numbers, the same for the same number (splitmix64).
pub(crate) fn scramble(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(count: u8) -> Vec<Request> {
        (0..count).map(|number| Request { head: vec![number], body: Vec::new() }).collect()
    }

    #[test]
    fn a_set_in_order_goes_round() {
        let mut source = Source::set(numbered(3), Draw::InOrder);
        let seen: Vec<_> = (0..7).map(|_| source.next().head[0]).collect();
        assert_eq!(seen, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn a_set_at_random_is_even_and_repeats_itself() {
        let (mut one, mut other) =
            (Source::set(numbered(10), Draw::AtRandom), Source::set(numbered(10), Draw::AtRandom));
        let mut seen = [0_u32; 10];
        for _ in 0..10_000 {
            let number = one.next().head[0];
            assert_eq!(number, other.next().head[0]);
            seen[usize::from(number)] += 1;
        }
        assert!(seen.iter().all(|count| (900..1100).contains(count)), "{seen:?}");
    }

    #[test]
    fn made_requests_are_numbered() {
        let mut source = Source::made(|n| Request { head: n.to_string().into_bytes(), body: Vec::new() });
        assert_eq!((source.next().head.clone(), source.next().head.clone()), (b"0".to_vec(), b"1".to_vec()));
    }
}

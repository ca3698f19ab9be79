//! Which calls begin, and when.
//!
//! Under more load than the server can carry, calls that have begun wait for each other: for their turn on the processor
//! after each step, and for the store. So only as many begin as are done soon; the others wait outside, before anything
//! is looked at but their route. Those that wait too long are refused; those that wait for the store, once there has
//! always been one for a while, so that it is no burst and no disk that halts. What is let in is answered soon, a refusal
//! costs a fraction of a call, and when the load is gone nothing is left to work off. There are two measures of too much:
//!
//! * *Turns.* A turn is over when every task that was ready at its beginning has run. While turns are short a call begins
//!   as it comes. During one that is not, calls wait in the [room], and each turn lets a few of them begin.
//! * *Places.* So many calls are worked on at once. For what is read from memory the number is a bound that only a stuck
//!   disk reaches; for queries and changes, which wait for the store and not for a turn, it is what the store does in a
//!   short time, as measured ([`Places`]).
//!
//! [`Admission::enter`] is for a call whose head has come, [`Admission::admit`] for one whose body has: clients that send
//! slowly take no place (`limit.requests` bounds those).

mod places;
mod room;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentrouter_model::{Reason, Refusal, Rpc};
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use self::places::Place;
use self::places::Places;
use self::room::Room;

/// The longest turn during which calls begin as they come.
const SHORT: Duration = Duration::from_millis(3);
/// So many begin in a turn however long it is: they wait for a processor that something else keeps busy, not for each other.
const FEW: usize = 16;
/// How often a turn is measured while there are calls and none of them waits.
const EVERY: Duration = Duration::from_millis(1);
/// Most calls in the room.
const ROOM: usize = 16 * 1024;

/// Most reads: a bound for when the log or the store is stuck.
const READS: usize = 1024;
/// Fewest, first and most queries. A few are enough to keep every connection to a database busy.
const QUERIES: [usize; 3] = [16, 32, 1024];
/// Fewest, first and most changes. The store commits as many together as wait, and where that takes long, few would be slow,
/// too.
const CHANGES: [usize; 3] = [32, 64, 256];
/// How long a query or a change is to wait for others.
const WAIT: Duration = Duration::from_millis(10);

/// Calls that take about as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Reads of what is in memory, as a rule.
    Read,
    /// Reads that always go to the store.
    Query,
    Change,
}

impl Class {
    const ALL: [Self; 3] = [Self::Read, Self::Query, Self::Change];

    fn of(rpc: Rpc) -> Self {
        match rpc {
            Rpc::GetSecret | Rpc::GetSecretValue => Self::Read,
            Rpc::ListSecrets | Rpc::ValidateSecret => Self::Query,
            Rpc::CreateSecret | Rpc::RotateSecret | Rpc::DeleteSecret => Self::Change,
        }
    }

    /// How long calls are not refused for what may pass. The store halts at times; reads from memory wait for turns alone.
    fn grace(self) -> Duration {
        match self {
            Self::Read => Duration::ZERO,
            Self::Query | Self::Change => room::STANDING,
        }
    }

    /// How many that wait begin in one turn: one or two milliseconds' worth.
    fn each_turn(self) -> usize {
        match self {
            Self::Read => 64,
            Self::Query => 16,
            Self::Change => 32,
        }
    }
}

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shed {
    /// There are as many as `limit.requests`.
    Requests,
    /// It has waited too long for a turn.
    Turn,
    /// It has waited too long for a place, or found none.
    Place,
    /// Too many wait.
    Room,
}

impl Shed {
    pub(crate) const ALL: [Self; 4] = [Self::Requests, Self::Turn, Self::Place, Self::Room];

    /// As in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Turn => "turn",
            Self::Place => "place",
            Self::Room => "room",
        }
    }
}

/// The turns, the places, and the room.
pub(crate) struct Admission {
    /// What instants are counted from.
    start: Instant,
    /// When the turn began that is measured, in nanoseconds; 0 if none is.
    turn: AtomicU64,
    /// When the next turn is to be measured.
    next: AtomicU64,
    /// Calls that began in this turn, by class: not all of them may have their places yet.
    begun: [AtomicUsize; 3],
    /// Calls in the room, by class.
    waiting: [AtomicUsize; 3],
    room: Mutex<Room>,
    /// The usher is there. Changes under the room's lock.
    ushered: AtomicBool,
    /// Wakes an usher that waits for a place.
    wake: Notify,
    places: [Places; 3],
}

/// What the usher does next.
enum Next {
    Turn,
    Wait(Instant),
    Leave,
}

impl Admission {
    pub(crate) fn new() -> Arc<Self> {
        let start = Instant::now();
        Arc::new(Self {
            start,
            turn: AtomicU64::new(0),
            next: AtomicU64::new(0),
            begun: Default::default(),
            waiting: Default::default(),
            room: Mutex::new(Room::new(Class::ALL.map(Class::grace))),
            ushered: AtomicBool::new(false),
            wake: Notify::new(),
            places: [
                Places::fixed(READS),
                Places::by_rate(QUERIES, WAIT, start),
                Places::by_rate(CHANGES, WAIT, start),
            ],
        })
    }

    /// Waits until a call, whose head came `now`, may begin: not at all, as a rule. Dropped, it has left the room.
    ///
    /// # Errors
    /// [`Shed::Turn`] or [`Shed::Place`], after [`room::LONG`] or more; [`Shed::Room`].
    pub(crate) async fn enter(self: &Arc<Self>, rpc: Rpc, now: Instant) -> Result<(), Shed> {
        let class = Class::of(rpc);
        if self.lets_in(class, now) {
            return Ok(());
        }
        let answer = {
            let mut room = self.room();
            if self.waiting() >= ROOM {
                return Err(Shed::Room);
            }
            let answer = room.enter(class as usize, now);
            self.count(&room);
            self.have_ushered(&room, now);
            answer
        };
        // Nobody who waits is dropped unanswered; the runtime may end, and then all is over.
        answer.await.unwrap_or(Err(Shed::Turn))
    }

    /// Gives a call its place, until that is dropped.
    ///
    /// # Errors
    /// [`Shed::Place`].
    pub(crate) fn admit(&self, rpc: Rpc) -> Result<Place<'_>, Shed> {
        self.places(Class::of(rpc)).take(self).ok_or(Shed::Place)
    }

    /// How many wait in the room.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.load(Ordering::Relaxed)).sum()
    }

    fn lets_in(self: &Arc<Self>, class: Class, now: Instant) -> bool {
        let nanos = self.nanos(now);
        match self.turn.load(Ordering::Relaxed) {
            0 if nanos >= self.next.load(Ordering::Relaxed) => {
                let room = self.room();
                self.have_ushered(&room, now);
            }
            0 => {}
            turn if u128::from(nanos.saturating_sub(turn)) > SHORT.as_nanos()
                && self.begun.iter().map(|begun| begun.load(Ordering::Relaxed)).sum::<usize>() >= FEW =>
            {
                return false;
            }
            _ => {}
        }
        let begun = &self.begun[class as usize];
        if self.waiting[class as usize].load(Ordering::Relaxed) > 0
            || self.places(class).left() <= begun.load(Ordering::Relaxed)
        {
            return false;
        }
        begun.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Sees to it that a turn is measured which began `now`, or has begun.
    fn have_ushered(self: &Arc<Self>, _room: &MutexGuard<'_, Room>, now: Instant) {
        if self.turn.load(Ordering::Relaxed) == 0 {
            self.turn.store(self.nanos(now).max(1), Ordering::Relaxed);
        }
        if !self.ushered.swap(true, Ordering::Relaxed) {
            tokio::spawn(Arc::clone(self).usher());
        } else {
            self.wake.notify_one();
        }
    }

    /// Lets calls in, turn by turn, until none waits.
    async fn usher(self: Arc<Self>) {
        loop {
            a_turn().await;
            match self.usher_in(Instant::now()) {
                Next::Turn => {}
                Next::Wait(until) => {
                    // Whichever comes first: a place, or the time to refuse somebody.
                    let _ = tokio::time::timeout_at(until, self.wake.notified()).await;
                }
                Next::Leave => return,
            }
        }
    }

    /// Has some of those that wait begin, and refuses those of the others that have waited too long.
    fn usher_in(&self, now: Instant) -> Next {
        let mut room = self.room();
        let why = Class::ALL.map(|class| {
            let left = self.places(class).left();
            let begun = room.let_in(class as usize, now, class.each_turn().min(left));
            self.begun[class as usize].store(begun, Ordering::Relaxed);
            if left == 0 { Shed::Place } else { Shed::Turn }
        });
        room.refuse(now, why);
        self.count(&room);
        let Some(next_refusal) = room.next_refusal() else {
            self.turn.store(0, Ordering::Relaxed);
            self.next.store(self.nanos(now + EVERY), Ordering::Relaxed);
            self.ushered.store(false, Ordering::Relaxed);
            return Next::Leave;
        };
        let ready = |class: &Class| room.is_ready(*class as usize, now) && self.places(*class).left() > 0;
        if Class::ALL.iter().any(ready) {
            self.turn.store(self.nanos(now), Ordering::Relaxed);
            Next::Turn
        } else {
            self.turn.store(0, Ordering::Relaxed);
            self.next.store(self.nanos(now + EVERY), Ordering::Relaxed);
            Next::Wait(next_refusal)
        }
    }

    /// A place was given back.
    fn place_is_free(&self) {
        if self.waiting() > 0 {
            self.wake.notify_one();
        }
    }

    fn places(&self, class: Class) -> &Places {
        &self.places[class as usize]
    }

    fn count(&self, room: &Room) {
        for (class, waiting) in self.waiting.iter().enumerate() {
            waiting.store(room.len(class), Ordering::Relaxed);
        }
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        // What it holds is consistent after every statement, so a panic elsewhere spoils nothing.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nanos(&self, now: Instant) -> u64 {
        // Half a millennium fits.
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Ends when what is ready has run, what the sockets have for us included.
async fn a_turn() {
    // Comes back when the sockets have been asked. On a runtime of several threads, before all others, though.
    tokio::task::yield_now().await;
    // Woken while it runs, a task goes behind all others of its thread.
    let mut behind = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut behind, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

/// What a call is told that is not let in.
pub(crate) fn overloaded() -> Refusal {
    Refusal::new(Reason::Overloaded).retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// What a first look at a future finds.
    fn at_once<F: Future>(future: F) -> Option<F::Output> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    /// Within five seconds, what may take its time is there.
    async fn soon<F: Future>(future: F) -> F::Output {
        tokio::time::timeout(Duration::from_secs(5), future).await.expect("within five seconds")
    }

    /// A turn that began just now, and an instant in it at which it has lasted too long for calls to begin.
    fn long_turn(admission: &Arc<Admission>) -> Instant {
        let begun = Instant::now();
        let late = begun + SHORT * 2;
        for now in [begun].into_iter().chain([late; FEW - 1]) {
            assert_eq!(
                at_once(admission.enter(Rpc::GetSecretValue, now)),
                Some(Ok(())),
                "it begins as it comes"
            );
        }
        late
    }

    #[tokio::test]
    async fn calls_begin_as_they_come_but_during_a_long_turn_and_then_one_after_the_other() {
        let admission = Admission::new();
        let late = long_turn(&admission);
        assert_eq!(
            at_once(admission.enter(Rpc::ListSecrets, late - SHORT)),
            Some(Ok(())),
            "the turn is short yet"
        );
        let waiting: Vec<_> = (0..100)
            .map(|number| {
                let rpc = Rpc::ALL[number % Rpc::ALL.len()];
                let admission = Arc::clone(&admission);
                Box::pin(async move { admission.enter(rpc, late).await })
            })
            .collect();
        let tasks: Vec<_> = waiting.into_iter().map(tokio::spawn).collect();
        assert_eq!(at_once(admission.enter(Rpc::GetSecret, late)), None);
        for task in tasks {
            assert_eq!(soon(task).await.expect("no panic"), Ok(()));
        }
        soon(async {
            while admission.ushered.load(Ordering::Relaxed) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(
            (admission.waiting(), admission.turn.load(Ordering::Relaxed)),
            (0, 0),
            "and all is as before"
        );
        assert_eq!(at_once(admission.enter(Rpc::ListSecrets, Instant::now())), Some(Ok(())));
    }

    #[tokio::test]
    async fn a_turn_lets_few_begin_of_each_class_however_many_wait_of_another() {
        let admission = Admission::new();
        let late = long_turn(&admission);
        let lists: Vec<_> = (0..500).map(|_| admission.room().enter(Class::Query as usize, late)).collect();
        let mut read = admission.room().enter(Class::Read as usize, late);
        assert!(matches!(admission.usher_in(late), Next::Turn));
        assert_eq!(read.try_recv(), Ok(Ok(())));
        let begun = lists.into_iter().filter_map(|mut list| list.try_recv().ok()).count();
        assert_eq!(begun, Class::Query.each_turn());
    }

    #[tokio::test]
    async fn what_goes_to_the_store_waits_for_a_place_and_reads_from_memory_do_not_wait_for_it() {
        for (rpc, places, other) in [
            (Rpc::CreateSecret, CHANGES[1], Rpc::RotateSecret),
            (Rpc::ListSecrets, QUERIES[1], Rpc::ValidateSecret),
        ] {
            let admission = Admission::new();
            let mut held: Vec<_> = (0..places).map(|_| admission.admit(rpc).expect("a place")).collect();
            let mut waits = pin!(admission.enter(other, Instant::now()));
            assert!(at_once(&mut waits).is_none());
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert!(at_once(&mut waits).is_none(), "turns alone do not help");
            assert_eq!(at_once(admission.enter(Rpc::GetSecretValue, Instant::now())), Some(Ok(())));
            held.pop();
            assert_eq!(soon(&mut waits).await, Ok(()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_burst_everybody_is_served_and_no_more_at_once_than_there_are_places() {
        let (admission, at_work) = (Admission::new(), Arc::new(AtomicUsize::new(0)));
        let call = || {
            let (admission, at_work) = (Arc::clone(&admission), Arc::clone(&at_work));
            async move {
                admission.enter(Rpc::ListSecrets, Instant::now()).await?;
                let _place = admission.admit(Rpc::ListSecrets)?;
                let others = at_work.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
                at_work.fetch_sub(1, Ordering::Relaxed);
                Ok::<_, Shed>(others + 1)
            }
        };
        let calls: Vec<_> = (0..4 * QUERIES[1]).map(|_| tokio::spawn(call())).collect();
        let mut most = 0;
        for call in calls {
            most = most.max(soon(call).await.expect("no panic").expect("it is served"));
        }
        assert_eq!(most, QUERIES[1]);
    }

    #[tokio::test]
    async fn who_waits_too_long_is_refused_and_told_why() {
        let admission = Admission::new();
        let held: Vec<_> =
            (0..CHANGES[1]).map(|_| admission.admit(Rpc::CreateSecret).expect("a place")).collect();
        let begun = Instant::now();
        assert_eq!(soon(admission.enter(Rpc::CreateSecret, begun)).await, Err(Shed::Place));
        assert!(begun.elapsed() >= room::STANDING, "{:?}", begun.elapsed());
        drop(held);
        assert_eq!(at_once(admission.enter(Rpc::CreateSecret, Instant::now())), Some(Ok(())), "at once");
    }

    #[tokio::test]
    async fn one_more_than_there_are_places_is_refused_and_the_other_kind_is_not() {
        let admission = Admission::new();
        for (rpc, places, other) in [
            (Rpc::CreateSecret, CHANGES[2], Rpc::GetSecretValue),
            (Rpc::GetSecretValue, READS, Rpc::RotateSecret),
        ] {
            let mut held: Vec<_> = (0..places).map(|_| admission.admit(rpc).expect("a place")).collect();
            assert_eq!(admission.admit(rpc).err(), Some(Shed::Place));
            assert!(admission.admit(other).is_ok());
            held.pop();
            assert!(admission.admit(rpc).is_ok(), "a place that is given back is there at once");
        }
    }

    #[tokio::test]
    async fn one_who_goes_while_waiting_leaves_nothing_behind() {
        let admission = Admission::new();
        let late = long_turn(&admission);
        for _ in 0..100 {
            assert_eq!(at_once(admission.enter(Rpc::ListSecrets, late)), None);
        }
        let stays = admission.enter(Rpc::ListSecrets, late);
        assert_eq!(soon(stays).await, Ok(()));
        assert_eq!(admission.waiting(), 0);
    }
}

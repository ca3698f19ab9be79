//! Where calls wait before they begin.
//!
//! While nobody has waited for long, who came first begins first. Otherwise there are more calls than can be served, some
//! have to be refused, and who came last begins first: those that are served have waited little, and those that are not
//! are the ones that have waited longest already. (First come, first served, would have all of them wait nearly as long
//! as one may.)

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Shed;

/// The longest wait of anybody at which who came first begins first. With it, the time at work and some turns, all are
/// served within 50 ms as long as all can be.
const FAIR: Duration = Duration::from_millis(25);
/// The wait after which a call is to be refused, where there has been [too much](STANDING) of its class.
pub(super) const LONG: Duration = Duration::from_millis(30);
/// How long there must have been some that waited for the store for longer than [`FAIR`], without a moment of none, for it
/// to be more than a burst or a disk that halts: those are worked off, and who came with them is served, if late. (So does
/// CoDel, RFC 8289, tell a queue that stands from one that passes.)
pub(super) const STANDING: Duration = Duration::from_millis(150);
/// How often one is refused, if so many have to be. Who is refused asks again, as a rule, and to hear and refuse them must
/// not take up the time of those who are served: so it takes a fifth to a quarter of one processor at most.
const REFUSE_EVERY: Duration = Duration::from_micros(100);
/// Most that are refused at once.
const BURST: u32 = 32;

/// What a call that waits is told.
type Told = Result<(), Shed>;

/// Calls that wait, by class.
pub(super) struct Room {
    classes: [Line; 3],
    next_refusal: Option<Instant>,
    /// When calls were last let in and refused.
    last: Option<Instant>,
}

/// Those of one class, in the order in which they came.
struct Line {
    waiting: VecDeque<Waiting>,
    /// How long there may be one that has waited for [`FAIR`].
    grace: Duration,
    /// Since when there was always one that had waited for [`FAIR`]; none if there was not when it was last looked.
    late: Option<Instant>,
}

impl Line {
    /// From when on nobody is served any more who has waited for [`LONG`], if nothing changes.
    fn standing(&self) -> Option<Instant> {
        Some(self.late.unwrap_or(self.waiting.front()?.since + FAIR) + self.grace)
    }

    /// When the one that came first is to be refused.
    fn next_refusal(&self) -> Option<Instant> {
        Some(self.standing()?.max(self.waiting.front()?.since + LONG))
    }

    /// To be called before and after some go.
    fn look(&mut self, now: Instant) {
        let late = self.waiting.front().map(|first| first.since + FAIR).filter(|late| *late <= now);
        self.late = late.map(|late| self.late.unwrap_or(late));
    }
}

struct Waiting {
    since: Instant,
    tell: oneshot::Sender<Told>,
}

impl Room {
    /// An empty one. A class is given the time in which what happens once is over.
    pub(super) fn new(graces: [Duration; 3]) -> Self {
        let classes = graces.map(|grace| Line { waiting: VecDeque::new(), grace, late: None });
        Self { classes, next_refusal: None, last: None }
    }

    /// Has a call wait that came `now`.
    pub(super) fn enter(&mut self, class: usize, now: Instant) -> oneshot::Receiver<Told> {
        let (tell, told) = oneshot::channel();
        self.classes[class].waiting.push_back(Waiting { since: now, tell });
        told
    }

    /// Refuses those that have waited for too long, who is due first first, as far as it is time to refuse somebody. `why`
    /// says so of each class.
    pub(super) fn refuse(&mut self, now: Instant, why: [Shed; 3]) {
        self.look(now);
        // What was not used is kept for a while: a turn may take some milliseconds.
        let least = now.checked_sub(REFUSE_EVERY * BURST).unwrap_or(now);
        let mut next = self.next_refusal.map_or(least, |next| next.max(least));
        while next <= now {
            let Some((class, due)) = self.first_due() else { break };
            if due > now {
                break;
            }
            let first = self.classes[class].waiting.pop_front();
            // One that has gone need not be told.
            if first.is_some_and(|first| first.tell.send(Err(why[class])).is_ok()) {
                next += REFUSE_EVERY;
            }
        }
        self.look(now);
        self.next_refusal = Some(next);
        self.last = Some(now);
    }

    /// When somebody is to be refused, if nobody begins before.
    pub(super) fn next_refusal(&self) -> Option<Instant> {
        let (_, due) = self.first_due()?;
        Some(self.next_refusal.map_or(due, |next| next.max(due)))
    }

    /// Has so many of a class begin, at most, and returns how many did. Whoever has to be refused is not served any more.
    pub(super) fn let_in(&mut self, class: usize, now: Instant, most: usize) -> usize {
        let mut begun = 0;
        self.look(now);
        while begun < most && self.is_ready(class, now) {
            let waiting = &mut self.classes[class].waiting;
            let fair = waiting.front().is_some_and(|first| now.duration_since(first.since) < FAIR);
            let next = if fair { waiting.pop_front() } else { waiting.pop_back() };
            // Nobody begins for one that has gone.
            begun += usize::from(next.is_some_and(|next| next.tell.send(Ok(())).is_ok()));
        }
        self.look(now);
        begun
    }

    /// Whether there is one of a class that may begin: one that has not waited for too long yet, or that comes to its
    /// first turn, however long that was in coming.
    pub(super) fn is_ready(&self, class: usize, now: Instant) -> bool {
        let line = &self.classes[class];
        line.waiting.back().is_some_and(|newest| {
            let first_turn = self.last.is_none_or(|last| newest.since > last);
            let stands = line.standing().is_some_and(|standing| standing <= now);
            first_turn || !stands || now.duration_since(newest.since) < LONG
        })
    }

    fn look(&mut self, now: Instant) {
        self.classes.iter_mut().for_each(|line| line.look(now));
    }

    /// How many of a class wait.
    pub(super) fn len(&self, class: usize) -> usize {
        self.classes[class].waiting.len()
    }

    /// The class of the one that is to be refused first, and when that is.
    fn first_due(&self) -> Option<(usize, Instant)> {
        let lines = self.classes.iter().enumerate();
        lines.filter_map(|(class, line)| Some((class, line.next_refusal()?))).min_by_key(|(_, due)| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Has calls enter one a millisecond, and returns what each will be told.
    fn fill(room: &mut Room, start: Instant, count: u32) -> Vec<oneshot::Receiver<Told>> {
        (0..count).map(|number| room.enter(1, start + MS * number)).collect()
    }

    /// The numbers of those that have been told this.
    fn told(calls: &mut [oneshot::Receiver<Told>], this: Told) -> Vec<usize> {
        let calls = calls.iter_mut().enumerate();
        calls.filter_map(|(number, call)| (call.try_recv() == Ok(this)).then_some(number)).collect()
    }

    #[test]
    fn who_came_first_begins_first_until_somebody_has_waited_long() {
        let (mut room, start) = (Room::new([STANDING; 3]), Instant::now());
        let mut calls = fill(&mut room, start, 10);
        room.let_in(1, start + FAIR - MS, 3);
        assert_eq!(told(&mut calls, Ok(())), [0, 1, 2]);
        // The fourth came 3 ms after the start.
        room.let_in(1, start + FAIR + MS * 3, 2);
        assert_eq!(told(&mut calls, Ok(())), [8, 9]);
        assert_eq!((room.len(1), room.next_refusal()), (5, Some(start + FAIR + MS * 3 + STANDING)));
        room.let_in(0, start + FAIR, 10);
        assert_eq!(room.len(1), 5, "that was another class");
    }

    /// A room in which somebody of every class has waited for so long by `start` that others are not served for it, and
    /// what they will be told.
    fn standing(start: Instant) -> (Room, Vec<oneshot::Receiver<Told>>) {
        let mut room = Room::new([STANDING; 3]);
        let first = (0..3).map(|class| room.enter(class, start - STANDING - FAIR)).collect();
        (room, first)
    }

    #[test]
    fn those_that_have_waited_too_long_are_refused_and_no_others() {
        let start = Instant::now();
        let (mut room, _first) = standing(start);
        let mut calls = fill(&mut room, start, 10);
        let mut other = room.enter(0, start);
        assert_eq!(room.next_refusal(), Some(start), "the first of all");
        room.refuse(start + FAIR, [Shed::Turn; 3]);
        assert_eq!(room.next_refusal(), Some(start + LONG));
        room.refuse(start + LONG + MS * 4, [Shed::Turn, Shed::Place, Shed::Turn]);
        assert_eq!(told(&mut calls, Err(Shed::Place)), [0, 1, 2, 3, 4]);
        assert_eq!((other.try_recv(), room.len(1)), (Ok(Err(Shed::Turn)), 5));
    }

    #[test]
    fn of_a_burst_everybody_is_served_and_nobody_refused() {
        let (mut room, start) = (Room::new([STANDING; 3]), Instant::now());
        let mut calls = fill(&mut room, start, 10);
        let late = start + LONG * 2;
        room.refuse(late, [Shed::Place; 3]);
        assert_eq!(room.let_in(1, late, 4), 4, "who came last first");
        room.refuse(late + MS, [Shed::Place; 3]);
        assert_eq!(room.let_in(1, late + MS, 100), 6);
        assert_eq!(told(&mut calls, Ok(())).len(), 10);
        // The next ones that wait are others.
        let mut next = fill(&mut room, start + STANDING, 3);
        room.refuse(start + STANDING + LONG * 2, [Shed::Place; 3]);
        assert_eq!(told(&mut next, Err(Shed::Place)).len(), 0);
        room.refuse(start + FAIR + STANDING * 2, [Shed::Place; 3]);
        assert_eq!(told(&mut next, Err(Shed::Place)), [0, 1, 2]);
    }

    #[test]
    fn a_room_that_is_never_empty_but_where_nobody_waits_for_long_is_no_load() {
        let (mut room, start) = (Room::new([STANDING; 3]), Instant::now());
        let mut calls = fill(&mut room, start, 10);
        // One comes and one begins each millisecond, for longer than it takes to be too much.
        for late in 10..500 {
            let now = start + MS * late;
            calls.push(room.enter(1, now));
            assert_eq!(room.let_in(1, now, 1), 1);
            room.refuse(now, [Shed::Turn; 3]);
        }
        // Then the disk halts.
        let now = start + MS * 500 + STANDING;
        room.refuse(now, [Shed::Place; 3]);
        assert_eq!(told(&mut calls, Err(Shed::Place)).len(), 0);
        assert_eq!(room.let_in(1, now, 100), 10);
    }

    #[test]
    fn a_crowd_is_refused_one_by_one_and_not_in_a_rush() {
        let (mut room, start) = (Room::new([STANDING; 3]), Instant::now());
        let mut calls: Vec<_> = (0..1_000).map(|_| room.enter(2, start)).collect();
        let mut refused = 0;
        for late in 0..50 {
            let now = start + FAIR + STANDING + MS * late;
            room.refuse(now, [Shed::Turn; 3]);
            let more = told(&mut calls, Err(Shed::Turn)).len();
            calls.drain(..more);
            refused += more;
            assert!(room.next_refusal().is_some_and(|next| next > now && next <= now + MS));
        }
        assert!((500..=540).contains(&refused), "{refused} in 50 ms");
    }

    #[test]
    fn nobody_begins_for_those_that_have_gone() {
        let (mut room, start) = (Room::new([STANDING; 3]), Instant::now());
        let mut calls = fill(&mut room, start, 10);
        let mut left = calls.split_off(4);
        drop(calls);
        room.let_in(1, start, 2);
        assert_eq!(told(&mut left, Ok(())), [0, 1], "the fifth and the sixth");
        room.let_in(1, start, 100);
        assert_eq!((room.len(1), room.next_refusal()), (0, None));
    }

    #[test]
    fn nobody_begins_who_has_to_be_refused() {
        let start = Instant::now();
        let (mut room, _first) = standing(start);
        let mut calls = fill(&mut room, start, 10);
        room.refuse(start + FAIR, [Shed::Turn; 3]);
        room.let_in(1, start + LONG + MS * 7, 100);
        assert_eq!(told(&mut calls, Ok(())), [8, 9]);
        assert!(!room.is_ready(1, start + LONG + MS * 7));
        // The next turn is long in coming, and for that nobody is refused who came during it.
        let mut new = room.enter(1, start + LONG + MS * 8);
        room.let_in(1, start + LONG * 9, 100);
        assert_eq!((new.try_recv(), room.len(1)), (Ok(Ok(())), 8));
    }

    #[test]
    fn a_class_without_grace_is_refused_when_it_has_waited_too_long() {
        let (mut room, start) = (Room::new([Duration::ZERO, STANDING, STANDING]), Instant::now());
        let mut calls = [0, 1].map(|class| room.enter(class, start));
        room.refuse(start + LONG - MS, [Shed::Turn; 3]);
        assert_eq!(told(&mut calls, Err(Shed::Turn)).len(), 0);
        room.refuse(start + LONG, [Shed::Turn; 3]);
        assert_eq!(told(&mut calls, Err(Shed::Turn)), [0]);
    }
}

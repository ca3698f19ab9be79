//! Why and how a connection is closed.

use std::sync::Mutex;
use std::sync::PoisonError;

use tokio::sync::Notify;

/// Why the server closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It had no request for `limit.idle-time`.
    Idle,
    /// It is as old as `limit.connection-age`.
    Age,
    /// It has no seat and sends no request.
    Seat,
    /// A response was not read within `limit.send-time`.
    SendTime,
    /// All connections have more than `limit.unsent` bytes unsent, and this one the most.
    Unsent,
    /// More frames than `limit.control-frames`.
    ControlFrames,
}

impl Why {
    pub(crate) const ALL: [Self; 6] =
        [Self::Idle, Self::Age, Self::Seat, Self::SendTime, Self::Unsent, Self::ControlFrames];

    /// As in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Age => "age",
            Self::Seat => "seat",
            Self::SendTime => "send_time",
            Self::Unsent => "unsent",
            Self::ControlFrames => "control_frames",
        }
    }

    /// Whether its requests are not completed first.
    fn is_abrupt(self) -> bool {
        matches!(self, Self::SendTime | Self::Unsent | Self::ControlFrames)
    }
}

/// The end of a connection, from the decision on.
#[derive(Default)]
pub(super) struct Closing {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// Why, and since which second.
    started: Option<(Why, u32)>,
    /// Whether its requests are not awaited.
    abrupt: bool,
}

impl Closing {
    /// Returns whether this changes anything.
    pub(super) fn begin(&self, why: Why, now: u32) -> bool {
        self.change(|state| {
            let changes = state.started.is_none() || (why.is_abrupt() && !state.abrupt);
            if changes {
                *state = State { started: Some((why, now)), abrupt: why.is_abrupt() };
            }
            changes
        })
    }

    /// Its requests are not awaited any longer.
    pub(super) fn end(&self) {
        self.change(|state| !std::mem::replace(&mut state.abrupt, true));
    }

    pub(super) fn has_started(&self) -> bool {
        self.state().started.is_some()
    }

    pub(super) fn is_abrupt(&self) -> bool {
        self.state().abrupt
    }

    pub(super) fn since(&self) -> Option<(Why, u32)> {
        self.state().started
    }

    pub(super) async fn started(&self) {
        self.wait(|state| state.started.is_some()).await;
    }

    pub(super) async fn ended(&self) {
        self.wait(|state| state.abrupt).await;
    }

    /// Only the connection's task waits, so one waiter is notified.
    async fn wait(&self, is_so: impl Fn(State) -> bool) {
        while !is_so(self.state()) {
            self.changed.notified().await;
        }
    }

    fn change(&self, change: impl FnOnce(&mut State) -> bool) -> bool {
        let changed = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        if changed {
            self.changed.notify_one();
        }
        changed
    }

    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

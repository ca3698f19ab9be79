"""Cache of values for services that read them often, sync and async.

`_Store` decides what may be served at which age, and when a request is due. `Secrets` and `AsyncSecrets` make the requests,
in threads and in tasks: at most one at a time for each value. sdk/cases/cache.json has the rules. Nothing is written to a
disk.
"""

from __future__ import annotations

import asyncio
import copy
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Union

from tars.secret.v1.secret_pb2 import GetSecretValueRequest

from ._client import AsyncClient, Client
from ._errors import AgentRouterError, Code, ConfigError
from ._http import on_fork
from ._settings import seconds

# Name, realm, user.
_Key = tuple[str, str, str]
_Outcome = Union[str, AgentRouterError]

MAX_AGE = 30.0
MAX_STALE = 300.0
MAX_ENTRIES = 10_000
# The shortest time between a failed refresh of a value and its next refresh, in seconds.
REFRESH_DELAY = 1.0
# The most threads that refresh in the background. Without a free one, the next `get` starts the refresh.
_THREADS = 4


class _Entry:
    __slots__ = ("failed_at", "read_at", "value", "wait_till")

    def __init__(self, value: str, read_at: float) -> None:
        self.value = value
        # When the request for the value was sent.
        self.read_at = read_at
        # When the last refresh failed without removing the value.
        self.failed_at: float | None = None
        # No refresh before this time.
        self.wait_till = read_at


class _Store:
    """The values and the rules of their ages. Callers lock it."""

    def __init__(self, max_age: float, max_stale: float, max_entries: int, clock: Callable[[], float]) -> None:
        self.max_age = seconds("max_age", max_age)
        self.max_stale = max(self.max_age, seconds("max_stale", max_stale, zero=True))
        if isinstance(max_entries, bool) or not isinstance(max_entries, int) or max_entries < 1:
            raise ConfigError("max_entries must be a whole number above zero")
        self.max_entries = max_entries
        self.clock = clock
        # The least recently used value is the first.
        self.entries: dict[_Key, _Entry] = {}
        self.swept_at = -math.inf

    def look(self, key: _Key) -> tuple[str | None, bool]:
        """The value that may be served without waiting, if there is one, and whether a request is due."""
        entry, now = self.entries.pop(key, None), self.clock()
        if entry is None:
            return None, True
        self.entries[key] = entry
        age, delayed = now - entry.read_at, now < entry.wait_till
        outage = delayed or (entry.failed_at is not None and now - entry.failed_at < self.max_age)
        if age >= self.max_age and (not outage or age >= self.max_stale):
            return None, True
        return entry.value, age >= self.max_age / 2 and not delayed

    def settle(self, key: _Key, sent_at: float, outcome: _Outcome) -> _Outcome:
        """Stores the outcome of a request. Returns the outcome for its callers."""
        entry, now = self.entries.get(key), self.clock()
        if isinstance(outcome, str):
            self.entries.pop(key, None)  # To the end, as the most recently used.
            self.entries[key] = _Entry(outcome, sent_at)
            self._trim(key, now)
            return outcome
        if entry is not None and _is_outage(outcome) and now - entry.read_at < self.max_stale:
            entry.failed_at = now
            entry.wait_till = now + max(REFRESH_DELAY, outcome.retry_after or 0.0)
            return entry.value
        self.entries.pop(key, None)
        return outcome

    def _trim(self, newest: _Key, now: float) -> None:
        """Removes values that are too old to be served, and the least recently used ones beyond the limit."""
        if len(self.entries) > self.max_entries or now - self.swept_at >= self.max_age:
            self.swept_at = now
            for key, entry in list(self.entries.items()):
                if key != newest and now - entry.read_at >= self.max_stale:
                    del self.entries[key]
        while len(self.entries) > self.max_entries:
            del self.entries[next(iter(self.entries))]

    def __repr__(self) -> str:
        return f"entries={len(self.entries)}, max_age={self.max_age:g}, max_stale={self.max_stale:g}"


def _is_outage(error: AgentRouterError) -> bool:
    """Whether the error says nothing about the secret and the key, only that the server did not serve the request.

    The 401, 403 or 404 of a proxy counts as the server's.
    """
    if error.code in (Code.NOT_FOUND, Code.PERMISSION_DENIED, Code.UNAUTHENTICATED):
        return False
    outage = (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED)
    return error.code in outage or not error.reason


def _served(outcome: _Outcome) -> str:
    if isinstance(outcome, str):
        return outcome
    # Several callers may wait for one request. Each raises an exception of its own.
    raise copy.copy(outcome)


class Secrets:
    """A cache of values for services that read them often, in memory only. Threads may share it.

    A value from `get` was current at most `max_age` seconds ago. From half of `max_age` on, `get` also refreshes the value
    in the background. While the server is unavailable, `get` returns the last value until it is `max_stale` seconds old:
    for that long a revoked key or a deleted secret may go unnoticed in an outage. An outage is UNAVAILABLE,
    DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, or any error without a reason except NOT_FOUND, PERMISSION_DENIED and
    UNAUTHENTICATED. Any other error removes the value at once and is raised.

    Args:
        client: The client. Its key needs the scope `secrets/read/internal`.
        max_age: The age up to which a value is returned without waiting for the server, in seconds. Default: 30.
        max_stale: The age up to which a value is returned while the server is unavailable, in seconds. A value below
            `max_age` counts as `max_age`. Default: 300.
        max_entries: The largest number of values. At the limit the least recently used value is dropped. Default: 10000.

    Raises:
        ConfigError: `max_age` or `max_entries` is not above zero, or `max_stale` is below zero.
    """

    def __init__(
        self, client: Client, *, max_age: float = MAX_AGE, max_stale: float = MAX_STALE, max_entries: int = MAX_ENTRIES
    ) -> None:
        self._client = client
        self._store = _Store(max_age, max_stale, max_entries, time.monotonic)
        self._after_fork()
        on_fork(self)

    def _after_fork(self) -> None:
        """A forked process keeps the values. It has no thread and no request of its parent."""
        self._lock = threading.Lock()
        self._flights: dict[_Key, Future[_Outcome]] = {}
        self._threads = threading.BoundedSemaphore(_THREADS)

    def get(self, name: str, realm: str = "", user_id: str = "") -> str:
        """Returns the active value of a secret.

        An empty `realm` is the current realm of the key. An empty `user_id` is the user of the key.

        Raises:
            AgentRouterError: As `SecretClient.get_secret_value`, if the cache has no value that it may return.
        """
        key = (name, realm, user_id)
        while True:
            with self._lock:
                value, due = self._store.look(key)
                flight = self._flights.get(key)
                ours = due and flight is None and (value is None or self._threads.acquire(blocking=False))
                if ours:
                    flight = self._flights[key] = Future()
            if value is not None:
                if ours and flight is not None:
                    self._refresh(key, flight)
                return value
            assert flight is not None  # Without a value a request is due: it is in flight, or it is ours.
            if ours:
                self._fetch(key, flight)
            try:
                return _served(flight.result())
            except CancelledError:
                continue  # The thread that made the request was interrupted.

    def forget(self, name: str, realm: str = "", user_id: str = "") -> None:
        """Removes a value, so that the next `get` reads it from the server. Use it after a rotation of your own."""
        with self._lock:
            self._store.entries.pop((name, realm, user_id), None)
            self._flights.pop((name, realm, user_id), None)

    def clear(self) -> None:
        """Removes all values."""
        with self._lock:
            self._store.entries.clear()
            self._flights.clear()

    def _refresh(self, key: _Key, flight: Future[_Outcome]) -> None:
        """Refreshes in the background. The caller has acquired `_threads`."""

        def run() -> None:
            try:
                self._fetch(key, flight)
            finally:
                self._threads.release()

        try:
            threading.Thread(target=run, name="agentrouter-secrets", daemon=True).start()
        except RuntimeError:  # No more threads, or the interpreter ends: the present value is served.
            self._threads.release()
            self._abandon(key, flight)

    def _fetch(self, key: _Key, flight: Future[_Outcome]) -> None:
        sent_at = self._store.clock()
        outcome: _Outcome
        try:
            name, realm, user_id = key
            request = GetSecretValueRequest(name=name, realm=realm, user_id=user_id)
            outcome = self._client.secret.get_secret_value(request).value
        except AgentRouterError as error:
            outcome = error.with_traceback(None)
        except BaseException:
            self._abandon(key, flight)
            raise
        with self._lock:
            # A value that was forgotten meanwhile is not stored. The callers that wait get it.
            if self._flights.get(key) is flight:
                del self._flights[key]
                outcome = self._store.settle(key, sent_at, outcome)
        flight.set_result(outcome)

    def _abandon(self, key: _Key, flight: Future[_Outcome]) -> None:
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]
        flight.cancel()

    def __repr__(self) -> str:
        return f"Secrets({self._store!r})"


class AsyncSecrets:
    """`Secrets` for asyncio, with the same rules. One event loop at a time uses it."""

    def __init__(
        self, client: AsyncClient, *, max_age: float = MAX_AGE, max_stale: float = MAX_STALE, max_entries: int = MAX_ENTRIES
    ) -> None:
        self._client = client
        self._store = _Store(max_age, max_stale, max_entries, time.monotonic)
        self._flights: dict[_Key, asyncio.Task[_Outcome]] = {}
        # All tasks that run, also those that `forget` removed from the flights: a loop holds its tasks weakly.
        self._tasks: set[asyncio.Task[_Outcome]] = set()

    async def get(self, name: str, realm: str = "", user_id: str = "") -> str:
        """As `Secrets.get`."""
        key = (name, realm, user_id)
        value, due = self._store.look(key)
        flight = self._flights.get(key)
        if flight is not None and flight.get_loop() is not asyncio.get_running_loop():
            flight = None  # Its loop has ended, or is the parent's of a forked process.
        if due and flight is None:
            flight = self._flights[key] = asyncio.create_task(self._fetch(key))
            self._tasks.add(flight)
            flight.add_done_callback(self._tasks.discard)
        if value is not None:
            return value
        assert flight is not None  # Without a value a request is due.
        # Other callers may wait for it too: it continues if this caller is cancelled.
        return _served(await asyncio.shield(flight))

    def forget(self, name: str, realm: str = "", user_id: str = "") -> None:
        """As `Secrets.forget`."""
        self._store.entries.pop((name, realm, user_id), None)
        self._flights.pop((name, realm, user_id), None)

    def clear(self) -> None:
        """Removes all values."""
        self._store.entries.clear()
        self._flights.clear()

    async def _fetch(self, key: _Key) -> _Outcome:
        sent_at = self._store.clock()
        outcome: _Outcome
        own = asyncio.current_task()
        try:
            name, realm, user_id = key
            request = GetSecretValueRequest(name=name, realm=realm, user_id=user_id)
            outcome = (await self._client.secret.get_secret_value(request)).value
        except AgentRouterError as error:
            outcome = error.with_traceback(None)
        finally:
            current = self._flights.get(key) is own
            if current:
                del self._flights[key]
        return self._store.settle(key, sent_at, outcome) if current else outcome

    def __repr__(self) -> str:
        return f"AsyncSecrets({self._store!r})"

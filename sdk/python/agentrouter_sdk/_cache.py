"""Values for hot paths: read once, kept in memory for a bounded time, refreshed before they are asked for.

A shelf decides what a value of some age is good for; `Secrets` and `AsyncSecrets` fetch, in threads and in tasks, at most
one fetch per secret at a time. Ages count from the moment before the request was sent. Nothing is written to a disk.
"""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Union

from tars.secret.v1.secret_pb2 import GetSecretValueRequest

from ._client import AsyncClient, Client
from ._errors import AgentRouterError, ConfigError, TransportError
from ._settings import seconds

# Name, realm, user.
_Key = tuple[str, str, str]
_Outcome = Union[str, AgentRouterError]

# After a fetch that failed, a value that is still served is not tried to be refreshed for so long, in seconds.
_REST = 1.0
# Most threads that refresh in the background at once; what does not get one waits for the next `get`.
_THREADS = 4


class _Entry:
    __slots__ = ("fetched_at", "rest_until", "value")

    def __init__(self, value: str, fetched_at: float) -> None:
        self.value = value
        self.fetched_at = fetched_at
        self.rest_until = fetched_at


class _Shelf:
    """The values and the rules of their ages. Not locked."""

    def __init__(self, max_age: float, max_stale: float, max_entries: int, clock: Callable[[], float]) -> None:
        self.max_age = seconds("max_age", max_age)
        self.max_stale = seconds("max_stale", max_stale)
        if self.max_stale < self.max_age:
            raise ConfigError("max_stale must not be shorter than max_age")
        if max_entries < 1:
            raise ConfigError("max_entries must be 1 or more")
        self.max_entries = max_entries
        self.clock = clock
        # Oldest first.
        self.entries: dict[_Key, _Entry] = {}

    def look(self, key: _Key) -> tuple[str | None, bool]:
        """The value that may be served without a fetch, if there is one, and whether a fetch is due."""
        entry, now = self.entries.get(key), self.clock()
        if entry is None:
            return None, True
        age, resting = now - entry.fetched_at, now < entry.rest_until
        if age <= self.max_age:
            return entry.value, age > self.max_age / 2 and not resting
        if age <= self.max_stale and resting:
            return entry.value, False
        return None, True

    def settle(self, key: _Key, sent_at: float, outcome: _Outcome) -> _Outcome:
        """Takes in what a fetch brought, and says what those who wait for it get."""
        entry, now = self.entries.get(key), self.clock()
        if isinstance(outcome, str):
            self.entries.pop(key, None)  # To the end, as the newest.
            self.entries[key] = _Entry(outcome, sent_at)
            self._trim(now - self.max_stale)
            return outcome
        if entry is not None and _unreachable(outcome) and now - entry.fetched_at <= self.max_stale:
            entry.rest_until = now + max(_REST, outcome.retry_after or 0.0)
            return entry.value
        self.entries.pop(key, None)
        return outcome

    def _trim(self, oldest: float) -> None:
        for key in list(self.entries):
            if len(self.entries) <= self.max_entries and self.entries[key].fetched_at >= oldest:
                return
            del self.entries[key]

    def __repr__(self) -> str:
        return f"entries={len(self.entries)}, max_age={self.max_age:g}, max_stale={self.max_stale:g}"


def _unreachable(error: AgentRouterError) -> bool:
    """Whether the failure says nothing about the secret and its caller, only about reaching it.

    A proxy's 401 or 403 counts as the service's.
    """
    if error.code in ("NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED"):
        return False
    return isinstance(error, TransportError) or error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")


def _served(outcome: _Outcome) -> str:
    if isinstance(outcome, str):
        return outcome
    # Several may wait for one fetch: each raises an exception of its own.
    raise copy.copy(outcome)


class Secrets:
    """Values of secrets for hot paths, from memory. Threads may share it.

    How old a value may be: `get` returns one that was current at most `max_age` seconds ago. Past half of that, `get`
    has it refreshed in the background. While the server cannot be reached, is unavailable or asks to slow down, the last
    good value is served until it is `max_stale` seconds old. When the server says anything else (NOT_FOUND,
    PERMISSION_DENIED, UNAUTHENTICATED …), the value is dropped at once and the answer raised. So after a rotation
    or a deletion the value before it may be served for `max_age` seconds, and for `max_stale` if the server is out of
    reach.

    Args:
        client: What fetches; its key needs the scope `secrets/read/internal`.
        max_age: How old a value may be, in seconds. Default: 30.
        max_stale: How old it may be while the server cannot be reached, in seconds. Default: 300.
        max_entries: How many values are kept at most, the oldest dropped first. Default: 10000.

    Raises:
        ConfigError: A time is not above zero, or `max_stale` is shorter than `max_age`.
    """

    def __init__(
        self, client: Client, *, max_age: float = 30.0, max_stale: float = 300.0, max_entries: int = 10_000
    ) -> None:
        self._client = client
        self._shelf = _Shelf(max_age, max_stale, max_entries, time.monotonic)
        self._lock = threading.Lock()
        self._flights: dict[_Key, Future[_Outcome]] = {}
        self._threads = threading.BoundedSemaphore(_THREADS)

    def get(self, name: str, realm: str = "", user_id: str = "") -> str:
        """The value of a secret's active version.

        Realm and user are as in `GetSecretValueRequest`: empty means the key's own.

        Raises:
            AgentRouterError: As `SecretClient.get_secret_value`, if there is no value that may be served.
        """
        key = (name, realm, user_id)
        while True:
            with self._lock:
                value, due = self._shelf.look(key)
                flight = self._flights.get(key)
                ours = due and flight is None and (value is None or self._threads.acquire(blocking=False))
                if ours:
                    flight = self._flights[key] = Future()
            if value is not None:
                if ours and flight is not None:
                    self._refresh(key, flight)
                return value
            assert flight is not None  # Without a value a fetch is due: it runs, or it is ours.
            if ours:
                self._fetch(key, flight)
            try:
                return _served(flight.result())
            except CancelledError:
                continue  # The thread that fetched was interrupted.

    def forget(self, name: str, realm: str = "", user_id: str = "") -> None:
        """Drops a value, so that the next `get` fetches it: after a rotation of one's own, say."""
        with self._lock:
            self._shelf.entries.pop((name, realm, user_id), None)
            self._flights.pop((name, realm, user_id), None)

    def clear(self) -> None:
        """Drops all values."""
        with self._lock:
            self._shelf.entries.clear()
            self._flights.clear()

    def _refresh(self, key: _Key, flight: Future[_Outcome]) -> None:
        """Fetches in the background. A slot of `_threads` is already taken."""

        def run() -> None:
            try:
                self._fetch(key, flight)
            finally:
                self._threads.release()

        try:
            threading.Thread(target=run, name="agentrouter-secrets", daemon=True).start()
        except RuntimeError:  # No more threads, or the interpreter ends: the value at hand will do.
            self._threads.release()
            self._abandon(key, flight)

    def _fetch(self, key: _Key, flight: Future[_Outcome]) -> None:
        sent_at = self._shelf.clock()
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
            # What was forgotten meanwhile is not put back; those who waited get the answer all the same.
            if self._flights.get(key) is flight:
                del self._flights[key]
                outcome = self._shelf.settle(key, sent_at, outcome)
        flight.set_result(outcome)

    def _abandon(self, key: _Key, flight: Future[_Outcome]) -> None:
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]
        flight.cancel()

    def __repr__(self) -> str:
        return f"Secrets({self._shelf!r})"


class AsyncSecrets:
    """`Secrets` for asyncio, with the same rules of age. It belongs to one event loop."""

    def __init__(
        self, client: AsyncClient, *, max_age: float = 30.0, max_stale: float = 300.0, max_entries: int = 10_000
    ) -> None:
        self._client = client
        self._shelf = _Shelf(max_age, max_stale, max_entries, time.monotonic)
        self._flights: dict[_Key, asyncio.Task[_Outcome]] = {}
        # All that run, also those that `forget` took out of the flights: a loop holds its tasks weakly.
        self._tasks: set[asyncio.Task[_Outcome]] = set()

    async def get(self, name: str, realm: str = "", user_id: str = "") -> str:
        """As `Secrets.get`."""
        key = (name, realm, user_id)
        value, due = self._shelf.look(key)
        flight = self._flights.get(key)
        if due and flight is None:
            flight = self._flights[key] = asyncio.create_task(self._fetch(key))
            self._tasks.add(flight)
            flight.add_done_callback(self._tasks.discard)
        if value is not None:
            return value
        assert flight is not None  # Without a value a fetch is due.
        # Others may wait for it too: it goes on if this caller is cancelled.
        return _served(await asyncio.shield(flight))

    def forget(self, name: str, realm: str = "", user_id: str = "") -> None:
        """As `Secrets.forget`."""
        self._shelf.entries.pop((name, realm, user_id), None)
        self._flights.pop((name, realm, user_id), None)

    def clear(self) -> None:
        """Drops all values."""
        self._shelf.entries.clear()
        self._flights.clear()

    async def _fetch(self, key: _Key) -> _Outcome:
        sent_at = self._shelf.clock()
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
        return self._shelf.settle(key, sent_at, outcome) if current else outcome

    def __repr__(self) -> str:
        return f"AsyncSecrets({self._shelf!r})"

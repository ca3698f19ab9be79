"""Retries: which errors are retried, and after which pause. sdk/cases/retry.json has the rules.

`_secret.py` decides which calls are repeatable: reads, and writes with `expected_version`.
"""

from __future__ import annotations

import random

from ._errors import AgentRouterError, Code, Reason

# The upper bound of the first pause, in seconds.
BASE = 0.1
# Multiplies the upper bound from one pause to the next.
FACTOR = 2
# The largest upper bound, in seconds. The server may ask for a longer pause.
CAP = 2.0


def pause(error: AgentRouterError, retry: int) -> float | None:
    """The pause before retry number `retry`, from 0, in seconds. None if the error is not retried."""
    slow_down = error.code == Code.RESOURCE_EXHAUSTED and error.reason != Reason.BODY_TOO_LARGE
    if error.code != Code.UNAVAILABLE and not slow_down:
        return None
    bound: float = min(BASE * FACTOR ** min(retry, 10), CAP)
    # A random part, so that clients which fail together do not retry together.
    return (error.retry_after or 0.0) + random.random() * bound

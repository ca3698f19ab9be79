"""When a call is made again, and after how long.

Only what cannot do harm twice: reads, and writes that name the version they expect. And only when it may help:
UNAVAILABLE (which includes "cannot be reached") and 429.
"""

from __future__ import annotations

import random

from ._errors import AgentRouterError, ConfigError

# The first pause is at most this long, each later one at most twice the one before, in seconds.
_BASE = 0.1
# The longest pause that is our own choice; the server's Retry-After may be longer.
_CAP = 2.0


def pause(error: AgentRouterError, retry: int) -> float | None:
    """How long to wait before retry number `retry` (from 0), in seconds; None if there should be none."""
    if isinstance(error, ConfigError):
        return None
    # The code of 429 also says "too large", which stays so.
    slower = error.code == "RESOURCE_EXHAUSTED" and error.reason != "BODY_TOO_LARGE"
    if error.code != "UNAVAILABLE" and not slower:
        return None
    own = random.random() * min(_BASE * (1 << min(retry, 10)), _CAP)
    # A little later than asked, so that callers told the same do not all come at once.
    return own if error.retry_after is None else error.retry_after + own / 2

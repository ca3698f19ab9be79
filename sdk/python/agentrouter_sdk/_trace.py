"""Logs and traces of calls, for the program that uses the SDK.

Each attempt is a DEBUG record of the logger `agentrouter_sdk`: the call, its outcome, its duration and the request id. No
record has a name, a realm, a key or a value. If the program uses OpenTelemetry, requests carry the context of the current
span (`traceparent`), so that the server's spans are in the trace of the program.
"""

from __future__ import annotations

import logging
import sys

from ._errors import AgentRouterError, Code

_log = logging.getLogger("agentrouter_sdk")


def inject(headers: dict[str, str]) -> None:
    """Adds the context of the current span, if the program has loaded OpenTelemetry."""
    if "opentelemetry.trace" not in sys.modules:
        return
    try:
        from opentelemetry import propagate
    except ImportError:
        return
    propagate.inject(headers)


def attempt(call: str, number: int, took: float, error: AgentRouterError | None) -> None:
    """Logs an attempt."""
    if not _log.isEnabledFor(logging.DEBUG):
        return
    outcome = "OK"
    if error is not None:
        outcome = error.code + (f" ({error.reason})" if error.reason and error.reason != error.code else "")
        outcome += f" [request {error.request_id}]" if error.request_id else ""
        if not error.reason and error.code != Code.DEADLINE_EXCEEDED:
            outcome += f": {error.message}"
    _log.debug("%s attempt %d: %s after %.1f ms", call, number, outcome, took * 1000)

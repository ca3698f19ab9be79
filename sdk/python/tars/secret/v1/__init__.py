"""Messages of `agentrouter.secret.v1`: `secret_pb2`.

`repr` and `str` of a message show `[REDACTED]` in the place of each field that the definition marks `debug_redact`: the
values. The module `text_format` of protobuf shows them.

The packages above this one are namespace packages, so that other distributions may have a `tars` of their own.
"""

from collections.abc import Callable as _Callable
from typing import Any as _Any

from . import secret_pb2

_REDACTED = "[REDACTED]"


def _has_redacted(descriptor: _Any, seen: "frozenset[str]" = frozenset()) -> bool:
    """Whether a message of this type can contain a field to redact, at any depth."""
    if descriptor.full_name in seen:
        return False
    seen |= {descriptor.full_name}
    return any(
        field.GetOptions().debug_redact or (field.message_type is not None and _has_redacted(field.message_type, seen))
        for field in descriptor.fields
    )


def _redact(message: _Any) -> None:
    for field, value in message.ListFields():
        if field.GetOptions().debug_redact:
            message.ClearField(field.name)
            if isinstance(value, str):
                setattr(message, field.name, _REDACTED)
            elif isinstance(value, bytes):
                setattr(message, field.name, _REDACTED.encode())
        elif field.message_type is not None and _has_redacted(field.message_type):
            if hasattr(value, "ListFields"):
                _redact(value)
            else:
                for each in value.values() if hasattr(value, "values") else value:
                    _redact(each)


def _shown(original: _Callable[[_Any], str]) -> _Callable[[_Any], str]:
    def shown(self: _Any) -> str:
        copy = type(self)()
        copy.CopyFrom(self)
        _redact(copy)
        return original(copy)

    return shown


for _descriptor in secret_pb2.DESCRIPTOR.message_types_by_name.values():
    if _has_redacted(_descriptor):
        _class = getattr(secret_pb2, _descriptor.name)
        _class.__repr__ = _shown(_class.__repr__)
        _class.__str__ = _shown(_class.__str__)

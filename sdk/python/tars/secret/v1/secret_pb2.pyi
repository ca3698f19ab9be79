import datetime

from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Secret(_message.Message):
    """Describes one version of a secret, without its value."""
    __slots__ = ("id", "name", "realm", "user_id", "description", "tags", "status", "version", "created_at", "updated_at", "rotated_at", "expires_at", "kek_id")
    class TagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REALM_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    ROTATED_AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    KEK_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    """Output only. Identifies the secret across all its versions: a ULID. A secret that is deleted and created again gets
    another id."""
    name: str
    """Output only. Names the secret, unique within its owner and realm."""
    realm: str
    """Output only. States the purpose of the secret, such as `mcp` or `llm-keys`."""
    user_id: str
    """Output only. Identifies the owner; `system` is the service itself."""
    description: str
    """Output only. Describes the secret; can be empty."""
    tags: _containers.ScalarMap[str, str]
    """Output only. Labels the secret; can be empty."""
    status: str
    """Output only. States the status of this version: `active`, `rotated_pending` or `retired`."""
    version: int
    """Output only. Numbers this version, from 1."""
    created_at: _timestamp_pb2.Timestamp
    """Output only. States when the secret was created."""
    updated_at: _timestamp_pb2.Timestamp
    """Output only. States when its value or its metadata last changed."""
    rotated_at: _timestamp_pb2.Timestamp
    """Output only. States when the secret was last rotated; unset if never."""
    expires_at: _timestamp_pb2.Timestamp
    """Output only. States when a `rotated_pending` version becomes unreadable; unset for an active version."""
    kek_id: str
    """Output only. Names the key-encryption key that wraps this version's data key."""
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., realm: _Optional[str] = ..., user_id: _Optional[str] = ..., description: _Optional[str] = ..., tags: _Optional[_Mapping[str, str]] = ..., status: _Optional[str] = ..., version: _Optional[int] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., updated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., rotated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., kek_id: _Optional[str] = ...) -> None: ...

class CreateSecretRequest(_message.Message):
    """The request of CreateSecret."""
    __slots__ = ("name", "realm", "description", "value", "tags", "user_id", "expected_version", "update_mask")
    class TagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    REALM_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    name: str
    """Required. Names the secret. 1 to 255 characters of A-Z a-z 0-9 . _ -. The first and the last are a letter, a
    digit or _. Two dots in a row are not allowed. Examples: `openai-api-key`, `mcp-oauth-token`."""
    realm: str
    """Optional. Selects the realm. 1 to 64 characters of a-z 0-9 -. The first and the last are a letter or a digit.
    Default: the current realm of the API key."""
    description: str
    """Optional. Describes the secret. At most 1024 bytes of UTF-8. If empty, the stored description does not
    change, unless `update_mask` lists it."""
    value: str
    """Optional for an existing secret, required for a new one. Sets the plaintext. 1 to 65536 bytes of UTF-8. Input only:
    only the response of GetSecretValue contains it."""
    tags: _containers.ScalarMap[str, str]
    """Optional. Labels the secret. At most 64 entries. A key has 1 to 128 characters of A-Z a-z 0-9 . _ / : -. A value
    has at most 256 bytes of UTF-8 without control characters. If empty, the stored tags do not change, unless
    `update_mask` lists them."""
    user_id: str
    """Optional. Selects the owner. 1 to 255 characters of A-Z a-z 0-9 . _ @ : + -. Default: the user of the API key.
    Another user needs the scope `secrets/write/internal`. Ignored in the five LLM realms, whose owner is `system`."""
    expected_version: int
    """Optional. Makes the call conditional: this version must be the current one. 0: the secret must not exist. Otherwise
    the call fails with ABORTED (VERSION_MISMATCH). Default: no condition."""
    update_mask: _field_mask_pb2.FieldMask
    """Optional. Lists exactly the fields to write, among `description`, `tags` and `value`. A listed field that is empty
    is cleared; a value cannot be cleared. Default: all fields that are not empty."""
    def __init__(self, name: _Optional[str] = ..., realm: _Optional[str] = ..., description: _Optional[str] = ..., value: _Optional[str] = ..., tags: _Optional[_Mapping[str, str]] = ..., user_id: _Optional[str] = ..., expected_version: _Optional[int] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class CreateSecretResponse(_message.Message):
    """The response of CreateSecret."""
    __slots__ = ("secret",)
    SECRET_FIELD_NUMBER: _ClassVar[int]
    secret: Secret
    """Output only. Describes the secret after the change."""
    def __init__(self, secret: _Optional[_Union[Secret, _Mapping]] = ...) -> None: ...

class GetSecretRequest(_message.Message):
    """The request of GetSecret."""
    __slots__ = ("name", "realm")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REALM_FIELD_NUMBER: _ClassVar[int]
    name: str
    """Required. Names the secret."""
    realm: str
    """Optional. Selects the realm. Default: the current realm of the API key."""
    def __init__(self, name: _Optional[str] = ..., realm: _Optional[str] = ...) -> None: ...

class GetSecretResponse(_message.Message):
    """The response of GetSecret."""
    __slots__ = ("secret",)
    SECRET_FIELD_NUMBER: _ClassVar[int]
    secret: Secret
    """Output only. Describes the active version."""
    def __init__(self, secret: _Optional[_Union[Secret, _Mapping]] = ...) -> None: ...

class ListSecretsRequest(_message.Message):
    """The request of ListSecrets. A version is listed if all filters match."""
    __slots__ = ("realm", "status", "tags", "page_size", "page_token", "name_prefix")
    class TagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REALM_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    NAME_PREFIX_FIELD_NUMBER: _ClassVar[int]
    realm: str
    """Optional. Selects secrets of this realm. Default: every realm that the API key may see."""
    status: str
    """Optional. Selects versions with this status: `active`, `rotated_pending`, `retired` or `any`. Default: `active`."""
    tags: _containers.ScalarMap[str, str]
    """Optional. Selects secrets that have all of these tags with these values. At most 64 entries."""
    page_size: int
    """Optional. Limits the number of secrets on a page. Default: 50. More than 1000 counts as 1000. A negative number is
    INVALID_ARGUMENT."""
    page_token: str
    """Optional. Continues a list: the `next_page_token` of the page before. Send the same filters. Default: the first
    page."""
    name_prefix: str
    """Optional. Selects secrets whose name begins with this text. Default: any name."""
    def __init__(self, realm: _Optional[str] = ..., status: _Optional[str] = ..., tags: _Optional[_Mapping[str, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., name_prefix: _Optional[str] = ...) -> None: ...

class ListSecretsResponse(_message.Message):
    """The response of ListSecrets."""
    __slots__ = ("secrets", "next_page_token")
    SECRETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    secrets: _containers.RepeatedCompositeFieldContainer[Secret]
    """Output only. Describes the secrets of this page, in order."""
    next_page_token: str
    """Output only. Continues the list on the next page; empty on the last page. It is opaque and stays valid when the
    server restarts."""
    def __init__(self, secrets: _Optional[_Iterable[_Union[Secret, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteSecretRequest(_message.Message):
    """The request of DeleteSecret."""
    __slots__ = ("name", "realm")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REALM_FIELD_NUMBER: _ClassVar[int]
    name: str
    """Required. Names the secret."""
    realm: str
    """Optional. Selects the realm. Default: the current realm of the API key."""
    def __init__(self, name: _Optional[str] = ..., realm: _Optional[str] = ...) -> None: ...

class DeleteSecretResponse(_message.Message):
    """The response of DeleteSecret."""
    __slots__ = ("success",)
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    success: bool
    """Output only. Confirms that the secret is deleted. Always true: a failure is an error."""
    def __init__(self, success: bool = ...) -> None: ...

class RotateSecretRequest(_message.Message):
    """The request of RotateSecret."""
    __slots__ = ("name", "realm", "new_value", "expected_version", "grace_period")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REALM_FIELD_NUMBER: _ClassVar[int]
    NEW_VALUE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    GRACE_PERIOD_FIELD_NUMBER: _ClassVar[int]
    name: str
    """Required. Names the secret."""
    realm: str
    """Optional. Selects the realm. Default: the current realm of the API key."""
    new_value: str
    """Required. Sets the plaintext of the new version. 1 to 65536 bytes of UTF-8. Input only."""
    expected_version: int
    """Optional. Makes the call conditional: this version must be the current one. Otherwise the call fails with ABORTED
    (VERSION_MISMATCH). Default: no condition."""
    grace_period: _duration_pb2.Duration
    """Optional. Sets how long the replaced version stays readable. Default: the server's setting `grace`, 24 hours if
    unset. Zero retires it at once. A negative value, or more than 366 days, is INVALID_ARGUMENT."""
    def __init__(self, name: _Optional[str] = ..., realm: _Optional[str] = ..., new_value: _Optional[str] = ..., expected_version: _Optional[int] = ..., grace_period: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class RotateSecretResponse(_message.Message):
    """The response of RotateSecret."""
    __slots__ = ("secret",)
    SECRET_FIELD_NUMBER: _ClassVar[int]
    secret: Secret
    """Output only. Describes the new active version."""
    def __init__(self, secret: _Optional[_Union[Secret, _Mapping]] = ...) -> None: ...

class ValidateSecretRequest(_message.Message):
    """The request of ValidateSecret."""
    __slots__ = ("name", "realm")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REALM_FIELD_NUMBER: _ClassVar[int]
    name: str
    """Required. Names the secret."""
    realm: str
    """Optional. Selects the realm. Default: the current realm of the API key."""
    def __init__(self, name: _Optional[str] = ..., realm: _Optional[str] = ...) -> None: ...

class ValidateSecretResponse(_message.Message):
    """The response of ValidateSecret."""
    __slots__ = ("valid", "error")
    VALID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    valid: bool
    """Output only. States whether every readable version opens."""
    error: str
    """Output only. Names each version that does not open: `kek_unavailable`, `corrupt`, or `unchecked` (of too many); empty if valid."""
    def __init__(self, valid: bool = ..., error: _Optional[str] = ...) -> None: ...

class GetSecretValueRequest(_message.Message):
    """The request of GetSecretValue."""
    __slots__ = ("name", "realm", "user_id", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REALM_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    """Required. Names the secret."""
    realm: str
    """Optional. Selects the realm. Default: the current realm of the API key."""
    user_id: str
    """Optional. Selects the owner; `system` is the service itself. Default: the user of the API key. Ignored in the five
    LLM realms, whose owner is `system`."""
    version: int
    """Optional. Selects a version that is active or still pending. Default, and 0: the active one."""
    def __init__(self, name: _Optional[str] = ..., realm: _Optional[str] = ..., user_id: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class GetSecretValueResponse(_message.Message):
    """The response of GetSecretValue."""
    __slots__ = ("value", "secret")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    value: str
    """Output only. Contains the plaintext."""
    secret: Secret
    """Output only. Describes the version that the value belongs to."""
    def __init__(self, value: _Optional[str] = ..., secret: _Optional[_Union[Secret, _Mapping]] = ...) -> None: ...

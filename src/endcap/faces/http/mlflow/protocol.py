"""What a call is: a method, a path, what it asks for, the record its request is read into, and the function that answers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeVar, get_origin, get_type_hints
from urllib.parse import parse_qsl

import msgspec

from endcap.core.errors import InvalidInput
from endcap.core.permissions import Permission
from endcap.faces.http.remote import read_object

API = "/api/2.0/mlflow"
MOST_PAGE = 50_000
_MOST_FIELDS = 10_000

Answer = Callable[..., object]
A = TypeVar("A", bound=Answer)


class Request(msgspec.Struct, frozen=True):
    """What a call may be told. Fields that it does not know are passed over: a newer client may say more."""


class Pair(Request, frozen=True):
    """A tag or a parameter."""

    key: str
    value: str = ""


class Needs(NamedTuple):
    """What a call asks for: a permission, and as which verb its refusal is audited.

    ``releasing``: where what it is told means a release, it asks for that permission too.
    """

    permission: Permission
    verb: str
    releasing: bool = False


@dataclass(frozen=True)
class Call:
    """One call of the protocol. ``conflict`` is what the client knows a Conflict by; ``answer`` takes a session and the request.

    ``brief``: it reads a few records by their ids and nothing else, so that on a home of this machine no thread is asked for it.
    """

    method: str
    path: str
    needs: Needs
    request: type[Request]
    answer: Answer
    conflict: str
    brief: bool = False

    @property
    def summary(self) -> str:
        return (self.answer.__doc__ or "").strip().partition("\n")[0]

    def read(self, *, query: bytes, body: bytes, parts: Mapping[str, str]) -> Request:
        """The request of a query string (GET), a JSON object, or neither, with the named parts of the path.

        Whole numbers may come as text, as protobuf writes 64 bits, and so may NaN and the infinities. Raises InvalidInput.
        """
        try:
            if self.method != "GET" and body and not parts:
                return msgspec.json.decode(body, type=self.request, strict=False)
            said = self._read_query(query)
            if self.method != "GET" and body:
                said |= read_object(body)
            return msgspec.convert({**said, **parts}, self.request, strict=False)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"{self.path} was not told what it needs: {error}.") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInput(f"The body does not read as JSON: {error}.", hint="send one JSON object, in UTF-8") from error

    def _read_query(self, query: bytes) -> dict[str, Any]:
        try:
            pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
        except ValueError as error:
            raise InvalidInput(f"The query does not read as NAME=VALUE&NAME=VALUE: {error}.") from error
        lists = _find_lists(self.request)
        said: dict[str, Any] = {}
        for name, value in pairs:
            if name in lists:
                said.setdefault(name, []).append(value)
            elif name in said:
                raise InvalidInput(f"'{name}' is given twice.", hint="give it once")
            else:
                said[name] = value
        return said


@cache
def _find_lists(request: type[Request]) -> frozenset[str]:
    """The fields of a request that may be said several times."""
    return frozenset(field.name for field in msgspec.structs.fields(request) if get_origin(field.type) in (list, tuple))


def call(
    method: str, path: str, *, verb: str, permission: Permission, conflict: str = "RESOURCE_CONFLICT", releasing: bool = False, brief: bool = False
) -> Callable[[A], A]:
    """Make a function the answer to a call; its second parameter, ``asked``, is annotated with the record of the request.

    The permission is asked for before the request is read.
    """

    def decorate(function: A) -> A:
        needs = Needs(permission, verb, releasing)
        entry = Call(method, path, needs, get_type_hints(function)["asked"], function, conflict, brief)
        vars(function).setdefault("__calls__", []).append(entry)
        return function

    return decorate


def read_token(token: str) -> int:
    """How many results a page token passes over. Raises InvalidInput for what is no token of ours."""
    if not token:
        return 0
    if not (token.isascii() and token.isdigit() and len(token) <= 12):
        raise InvalidInput(f"{token[:50]!r} is no page token.", hint="pass next_page_token on as it came")
    return int(token)


def read_page(size: int, *, most: int = MOST_PAGE) -> int:
    """The same number of results. Raises InvalidInput outside of 1 to ``most``."""
    if not 1 <= size <= most:
        raise InvalidInput(f"max_results is {size}; it must be 1 to {most:,}.")
    return size


def cut_page(found: list[Any], *, skip: int, size: int) -> tuple[list[Any], dict[str, str]]:
    """The first ``size`` of ``size + 1`` results, and the token of the next page where there is one."""
    return found[:size], {"next_page_token": str(skip + size)} if len(found) > size else {}


def require_told(value: str, name: str) -> str:
    """The same text. Raises InvalidInput for none."""
    if not value:
        raise InvalidInput(f"The call needs '{name}'.", parameter=name)
    return value

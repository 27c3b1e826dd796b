"""Which verbs a request can call, at which path, with which parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin
from urllib.parse import parse_qsl

import msgspec

from endcap.core.errors import InvalidInput, suggest, unknown
from endcap.core.permissions import Permission
from endcap.faces.parameters import describe_parameter, split_union
from endcap.governance.verbs import Verb
from endcap.project.verbs import load_verbs

API = "/api/v1"
_HANDED_ON = "takes a record or a table that another part of a run made; a run calls it"
LOCAL = {
    "backup": "copies what all workspaces hold to a place that the server can reach",
    "backups": "looks into a place that the server can reach",
    "check-members": _HANDED_ON,
    "check-quality": _HANDED_ON,
    "features page": "writes a file on the caller's machine",
    "features pages": "writes files on the caller's machine",
    "forecast": "reads a file of the caller's machine and lays out a project beside it",
    "ingest": _HANDED_ON,
    "init": "lays out files in a folder of the caller's machine",
    "record-verdict": _HANDED_ON,
    "register": _HANDED_ON,
    "restore": "makes another home than the one that is served",
    "setup-code": "its code is shown to whoever stands at the machine",
    "start-comparison": "takes the drawn groups; compare draws them and calls it",
}
"""Verbs that no request calls though it could say their parameters, each with the reason. Those that it could not say are told by ``local_verbs``."""
HELD = {
    "against": "a file on the server's disk",
    "executor": "where work runs is settled where the server was started",
    "folder": "the project's folder is the server's",
    "memory": "as executor",
    "out": "a file on the server's disk",
    "report": "a file on the server's disk",
    "reporter": "progress is shown on the server's terminal",
    "store": "to which other stores the server copies is settled where it runs",
}
"""The parameters that no request gives, each with the reason. ``folder`` is filled in, the others keep their defaults."""
GIVEN = {("quotas set", "memory")}
"""Parameters that requests do give though another verb's of that name are held: this one is a limit that is kept, not what a call may use."""
_INT64: Any = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


@dataclass(frozen=True)
class RemoteVerb:
    """A verb as requests see it. ``parameters`` is the record that a body is read into."""

    verb: Verb
    path: str
    parameters: type[msgspec.Struct]
    wants_folder: bool

    @property
    def by_query(self) -> bool:
        """Whether GET may call it: it changes nothing, and a query can say all its parameters."""
        fields = msgspec.structs.fields(self.parameters)
        return self.verb.permission is Permission.READ and not any(_has(field.type, "object") for field in fields)

    def bind(self, values: msgspec.Struct, *, folder: Path) -> Callable[[Any], Any]:
        """The call with its values; the session is still to be given."""
        given = {name: getattr(values, name) for name in self.parameters.__struct_fields__}
        if self.wants_folder:
            given["folder"] = folder
        return lambda session: self.verb.call(session, **given)

    def parse_body(self, body: bytes) -> msgspec.Struct:
        """The parameters of a JSON object; no bytes are an empty one. Raises InvalidInput for anything that is no such object."""
        return self._convert(read_object(body) if body else {}, strict=True)

    def parse_query(self, query: bytes) -> msgspec.Struct:
        """The parameters of a query string: a list is a name said again. Raises InvalidInput as ``parse_body``."""
        try:
            pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, strict_parsing=bool(query), errors="strict", max_num_fields=10_000)
        except ValueError as error:
            raise InvalidInput(f"The query does not read as NAME=VALUE&NAME=VALUE: {error}.") from error
        lists = {field.encode_name for field in msgspec.structs.fields(self.parameters) if _has(field.type, "array")}
        values: dict[str, Any] = {}
        for name, value in pairs:
            if name in lists:
                values.setdefault(name, []).append(value)
            elif name in values:
                raise InvalidInput(f"The parameter '{name}' of '{self.verb.name}' is given twice.", hint="give it once")
            else:
                values[name] = value
        return self._convert(values, strict=False)

    def _convert(self, values: Mapping[str, Any], *, strict: bool) -> msgspec.Struct:
        offered = self.parameters.__struct_fields__
        for name in values:
            if name not in offered:
                what = unknown("parameter", name, offered, where=f"'{self.verb.name}'")
                raise InvalidInput(what, hint=HELD.get(name) or suggest(name, offered), parameter=name)
        missing = [field.name for field in msgspec.structs.fields(self.parameters) if field.required and field.name not in values]
        if missing:
            raise InvalidInput(f"'{self.verb.name}' needs the parameter '{missing[0]}'.", hint=f"see {API}/openapi.json", parameter=missing[0])
        try:
            return _require_finite(msgspec.convert(values, self.parameters, strict=strict))
        except msgspec.ValidationError as error:
            what = f"A parameter of '{self.verb.name}' is of the wrong type: {error}."
            raise InvalidInput(what, hint=f"see {API}/openapi.json") from error


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises InvalidInput for other JSON and for what is none."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"The body does not read as JSON: {error}.", hint="send one JSON object, in UTF-8") from error
    if not isinstance(found, dict):
        raise InvalidInput(f"The body is JSON of another sort: {type(found).__name__}.", hint="send one JSON object: the parameters by name")
    return found


def remote_verbs() -> dict[str, RemoteVerb]:
    """The verbs that requests can call, by name."""
    return _split_verbs()[0]


def local_verbs() -> dict[str, str]:
    """The verbs that no request can call, by name, each with the reason."""
    return _split_verbs()[1]


@lru_cache(maxsize=1)
def _split_verbs() -> tuple[dict[str, RemoteVerb], dict[str, str]]:
    remote, local = {}, {}
    for name, verb in load_verbs().items():
        found = LOCAL.get(name) or make_remote(verb)
        if isinstance(found, RemoteVerb):
            remote[name] = found
        else:
            local[name] = found
    return remote, local


def make_remote(verb: Verb) -> RemoteVerb | str:
    """A verb as requests see it; or why they cannot call it: it needs what no request gives, or what no JSON says."""
    fields: list[Any] = []
    for parameter in verb.parameters:
        required = parameter.default is parameter.empty
        if parameter.name in HELD and (verb.name, parameter.name) not in GIVEN:
            if required and parameter.name != "folder":
                return f"needs '{parameter.name}': {HELD[parameter.name]}"
            continue
        if isinstance(parameter.annotation, str):  # a type that only the checker imports
            return f"takes '{parameter.name}', a {parameter.annotation}, which no JSON can say"
        type_: Any = Annotated[_bound(parameter.annotation), msgspec.Meta(description=describe_parameter(verb, parameter.name) or "")]
        fields.append((parameter.name, type_) if required else (parameter.name, type_, parameter.default))
        try:
            msgspec.json.schema(parameter.annotation)
        except TypeError:
            return f"takes '{parameter.name}', which no JSON can say"
    name = "".join(word.capitalize() for word in verb.name.replace("-", " ").split()) + "Parameters"
    parameters = msgspec.defstruct(name, fields, kw_only=True, frozen=True, forbid_unknown_fields=True)
    wants_folder = any(parameter.name == "folder" for parameter in verb.parameters)
    return RemoteVerb(verb, f"{API}/{verb.name.replace(' ', '/')}", parameters, wants_folder)


def _bound(annotation: Any) -> Any:
    """The annotation with whole numbers held to 64 bits, which is what every store takes."""
    if annotation is int:
        return _INT64
    parts = split_union(annotation)
    return reduce(or_, map(_bound, parts)) if len(parts) > 1 else annotation


def _has(annotation: Any, kind: str) -> bool:
    """Whether a type, or one of those it is a union of, is of a kind of JSON: ``array`` or ``object``."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    parts = split_union(annotation)
    return any(_has(part, kind) for part in parts) if len(parts) > 1 else msgspec.json.schema(annotation).get("type") == kind


def _require_finite(values: msgspec.Struct) -> msgspec.Struct:
    """The same record. A query could say ``nan`` where JSON cannot."""
    for name in values.__struct_fields__:
        value = getattr(values, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidInput(f"The parameter '{name}' is {value}, which is no number.", parameter=name)
    return values

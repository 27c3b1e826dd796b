"""Two teams in one home, who are to know nothing of one another; and questions to every verb, about whatever has a name."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pytest
from argon2 import PasswordHasher

from endcap.assembly import House, open_house
from endcap.core.clock import ManualClock
from endcap.core.errors import EndcapError
from endcap.governance import passwords
from endcap.governance.credentials import open_by_user
from endcap.governance.people import add_user, find_user, grant_role
from endcap.governance.records import HOUSE
from endcap.governance.sessions import Session
from endcap.governance.tokens import make_token
from endcap.governance.verbs import Verb
from endcap.governance.webhooks import add_webhook
from endcap.loop.deployment.registering import register_run
from endcap.loop.features.kept.materialisation import materialise
from endcap.loop.features.pushes import push
from endcap.loop.registry.environments import set_environment
from endcap.loop.registry.naming import name_version, tag_model
from endcap.loop.registry.versions import create_model
from endcap.loop.training.tracking.experiments import create_experiment
from endcap.loop.training.tracking.logged_models import create_logged_model
from endcap.loop.training.tracking.run_files import put_file
from endcap.loop.training.tracking.tracked_runs import log
from endcap.project.running import run
from endcap.project.sample import write_sample
from endcap.solutions.shop import Chain
from endcap.storage.ports import Kind
from endcap.storage.tracks import Point, TrackBatch
from endcap.testing.packages import log_package, make_onnx_package

PASSWORD = "pine under marble"
START = datetime(2025, 4, 28, 6, tzinfo=UTC)
OURS, THEIRS = "shoes", "hats"
US, THEM = "ann", "bob"
SEALED_NAME = "quillwort"
"""Stands in every name that the other team gave alone, so that it is seen wherever it comes up."""
CHANCE = re.compile(
    r'("(?:cpu_s|wall_s|spent_s|charged_s|expected_s|peak_mib|started_us|hold)":)[0-9.e-]+|("(?:token|secret|hash|head|previous|key|public|vouched|endorsed|signature)":)"[^"]*"'
    r'|("identity":)"[0-9a-f]{32}"|("(?:master|id|before)":)"(?:[0-9a-f]{16}|(?:place_)?[0-9a-f]{24})"|()"(?:[0-9a-f]{24}|RUs[A-Za-z0-9+/=]{20,})"'
)
"""What chance, or the machine, puts into an answer: how long something took and what follows from that, and secrets and keys that are drawn."""
_OWN = {
    "alias": "store-blue", "environment": "prod", "experiment": "store-trials", "model": "store-day", "name": "store-blue", "owner": US,
    "role": "viewer", "run": "run_a000001", "table": "sales", "thing": "store-day", "version": "store-day-v1", "view": "store_units",
}  # fmt: skip
"""What is ours, for the parameters that are not asked about: by name."""


class PhasedIds:
    """Ids that count, from a beginning that is set: what the other team made before changes no id of ours."""

    def __init__(self) -> None:
        self.phase, self.n = "x", 0

    def begin(self, phase: str) -> None:
        self.phase, self.n = phase, 0

    def __call__(self, prefix: str) -> str:
        self.n += 1
        return f"{prefix}_{self.phase}{self.n:06d}"


class Home(NamedTuple):
    """A home, the folder of its projects, and the ids of the tracked runs and experiments of both teams."""

    house: House
    folder: Path
    ids: PhasedIds
    tracked: dict[tuple[str, str], str]

    def session(self, name: str, workspace: str) -> Session:
        """What signing in by a password gives."""
        found = open_by_user(self.house.ports.records, find_user(self.house.ports.records, name), workspace=workspace)
        return replace(self.house.admit(found.actor, role=found.role, workspace=found.workspace), admin=found.admin, warrant=found.warrant)

    def records(self, workspace: str) -> dict[str, dict[str, Any]]:
        """All records of a workspace by kind and id, and what of the house is filed under its name."""
        found: dict[str, dict[str, Any]] = {}
        for kind in find_kinds():
            for place in (workspace, HOUSE):
                for record in self.house.ports.records.find(kind, workspace=place):
                    told = msgspec.to_builtins(record)
                    if place == workspace or told.get("workspace") == workspace:
                        found.setdefault(kind.name, {})[kind.id_of(record)] = told
        return found


@cache
def find_kinds() -> list[Kind[Any]]:
    """Every kind of record of the package."""
    found: dict[str, Kind[Any]] = {}
    for module in pkgutil.walk_packages([str(Path(__file__).parents[1])], "endcap."):
        if module.name.rpartition(".")[2].endswith(("records", "ingested", "pushes")) or "governance" in module.name:
            found |= {value.name: value for value in vars(importlib.import_module(module.name)).values() if isinstance(value, Kind)}
    return [found[name] for name in sorted(found)]


def write_project(folder: Path, *, word: str = "") -> None:
    """A small chain; with a ``word`` its model, table and view are called by it."""
    folder.mkdir()
    chain = Chain(7, n_stores=6, opened=date(2025, 1, 6))
    write_sample(folder, seed=7, chain=chain, last=START.date())
    file = folder / "project.py"
    text = file.read_text(encoding="utf-8").replace(
        '    slices=["format"],', '    slices=["format"],\n    candidates=["shrunk_rates"],\n    backtest_origins=4,'
    )
    text = text.replace("bias=0.05", "better_than=[], bias=0.4, most={'wape': 0.5}").replace("store-day", f"{word or 'store'}-day")
    named = f"{word or 'store'}_units"
    view = f'{named} = ec.FeatureView(name="{named}", source=sales, features={{"units_7d": ec.sum("units", "7d")}}, pushed=True, online=True)'
    file.write_text(f"{text}\n{view}\n", encoding="utf-8")


def live(home: Home, session: Session, *, word: str = "") -> None:
    """What a team does: a model of its own loop, a tracked run with files, a registered model, a view, names, a webhook, a token."""
    stem, folder = word or "store", home.folder / (word or "plain")
    run(session, f"{stem}-day", folder=folder)
    materialise(session, f"{stem}_units", folder=folder)
    stamp = pa.array([session.now()], pa.timestamp("us", tz="UTC"))
    push(session, f"{stem}_units", pa.table({"store_id": [f"{stem}-1"], "__event_at": stamp, "units_7d": pa.array([7], pa.int64())}))
    experiment = create_experiment(session, f"{stem}-trials", tags={"team": f"{stem}-team"})
    tracked = log_package(session, make_onnx_package(), experiment=experiment.id, name=f"{stem}-run")
    home.tracked.update({(session.workspace, stem): tracked, (session.workspace, f"{stem}-trials"): experiment.id})
    log(session, tracked, TrackBatch(params={"rate": "0.1"}, points=[Point(f"{stem}_loss", 0.5, 0, 1)], tags={"note": f"{stem}-tag"}))
    put_file(session, f"run/{tracked}", f"{stem}/notes.txt", [f"what {stem} wrote".encode()])
    create_logged_model(session, experiment=experiment.id, run=tracked, name=f"{stem}-logged")
    create_model(session, f"{stem}-fraud")
    made = register_run(session, f"run/{tracked}", "model", model=f"{stem}-fraud")
    name_version(session, made.id, f"{stem}-blue")
    tag_model(session, f"{stem}-fraud", "team", f"{stem}-team")
    set_environment(session, f"{stem}-qa", approvals=1)
    add_webhook(session, f"https://hooks.example.com/{stem}")
    make_token(session, f"{stem}-nightly")


@contextmanager
def opened(folder: Path) -> Iterator[Home]:
    """A home in memory with its people, and quick passwords; nobody has a role but who made it."""
    hasher, ids = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1), PhasedIds()
    with pytest.MonkeyPatch.context() as patch, open_house("memory://", clock=ManualClock(START), new_id=ids) as house:
        patch.setattr(passwords, "_hasher", lambda: hasher)
        owner = house.session(actor="root")
        for name in ("root", US, THEM):
            add_user(owner, name, password=PASSWORD)
        yield Home(house, folder, ids, {})


def settle_in(home: Home, *, beside: bool) -> None:
    """Our team lives in the home; and before it, where it is to be ``beside``, another: with things called as ours are, and things of their own."""
    owner = home.house.session(actor="root")
    grant_role(owner, US, "owner", workspace=OURS)
    if beside:
        home.ids.begin("b")
        grant_role(owner, THEM, "owner", workspace=THEIRS)
        for word in ("", SEALED_NAME):
            live(home, home.session(THEM, THEIRS), word=word)
    home.ids.begin("a")
    live(home, home.session(US, OURS))


def tell_texts(told: Any) -> Iterator[str]:
    """Every text in what records tell, keys too."""
    if isinstance(told, dict):
        for key, value in told.items():
            yield str(key)
            yield from tell_texts(value)
    elif isinstance(told, list | tuple):
        for value in told:
            yield from tell_texts(value)
    elif isinstance(told, str):
        yield told


def ask_about(verb: Verb, what: str, *, home: Home) -> Iterator[dict[str, Any]]:
    """A call for each parameter that a name may be said in; the others name what is ours, where they must be given."""
    for asked in (p for p in verb.parameters if "str" in str(p.annotation) and p.name not in ("password", "workspace", "executor", "store")):
        values: dict[str, Any] = {}
        for p in verb.parameters:
            if p.name == "folder":
                values[p.name] = home.folder / "plain"
            elif p.name == asked.name:
                values[p.name] = _shape(p, what)
            elif p.default is inspect.Parameter.empty:
                values[p.name] = _fit(p, _OWN.get(p.name, "x"))
        yield values


def _shape(parameter: inspect.Parameter, what: str) -> Any:
    """A name as a parameter takes it: in a list, by itself, or as what things are told of by name."""
    kind = str(parameter.annotation)
    if "Mapping" in kind or "dict[" in kind:
        return {what: [what]}
    return [what] if any(word in kind for word in ("Sequence", "list[", "tuple[")) else what


def _fit(parameter: inspect.Parameter, name: str) -> Any:
    """Something of a parameter's type."""
    plain = {"Mapping": {}, "dict[": {}, "Sequence": [name], "list[": [name], "tuple[": [name], "int": 1, "float": 0.5, "Path": Path("x")}
    return next((value for word, value in plain.items() if word in str(parameter.annotation)), name)


def settle(text: str) -> str:
    """An answer without what chance puts into it: a list of runs is in the order of when they began."""
    if text.startswith("[{"):
        return "\n".join(sorted(settle(json.dumps(row, separators=(",", ":"))) for row in json.loads(text)))
    return CHANCE.sub(r"\1\2\3\4\5-", text)


def answer(verb: Verb, session: Session, values: Mapping[str, Any]) -> str:
    """What a verb says, its result or its error, as text."""
    try:
        return settle(msgspec.json.encode(verb.call(session, **values), enc_hook=repr, order="deterministic").decode())
    except EndcapError as error:
        return msgspec.json.encode(error.to_dict(), order="deterministic").decode()
    except (TypeError, AttributeError, ValueError, KeyError) as error:
        return repr(error)  # a made-up record is no record

"""Every verb meets closed things: whoever may not read one is told what they are told of a thing that never was, whoever may only read it is refused,
and no list names it. A verb without a row here fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from endcap.core.definitions.aggregates import Aggregate
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.definitions.watches import MemberQuality, Quality
from endcap.core.errors import Conflict, EndcapError, NotFound, PermissionDenied
from endcap.core.permissions import Permission, Role
from endcap.governance.audit import list_audit
from endcap.governance.quotas.places import hold_place
from endcap.governance.records import Actor
from endcap.governance.rights.guards import find_guard
from endcap.governance.sessions import Session
from endcap.loop.deployment.batches import find_batch
from endcap.loop.evaluation.records import Groups, Verdict
from endcap.loop.features.catalogue import find_view, register_view
from endcap.loop.features.kept.materialisation import materialise
from endcap.loop.registry.records import Version
from endcap.loop.registry.versions import get_version
from endcap.loop.training.tracking.experiments import create_experiment
from endcap.loop.training.tracking.run_files import put_file
from endcap.loop.training.tracking.tracked_runs import log, start_run
from endcap.project.definitions import load_definitions
from endcap.project.rights import grant_right, restrict, revoke_right
from endcap.project.verbs import load_verbs
from endcap.storage.tracks import Point, TrackBatch

ALL = load_verbs()


@dataclass(frozen=True)
class Names:
    """What things are called: those that are closed, or others that never were."""

    model: str
    version: str
    view: str
    table: str
    run: str
    experiment: str
    experiment_name: str

    def forget(self, text: str, missing: Names) -> str:
        """A text in which the closed things are called as the missing ones. What it says of others, such as the nearest name, may differ."""
        pairs = sorted(zip(vars(self).values(), vars(missing).values(), strict=True), key=lambda pair: -len(pair[0]))
        for mine, other in pairs:
            text = re.sub(rf"(?<![\w-]){re.escape(mine)}(?![\w])", other, text)
        return text.partition(" Hint: ")[0]


@dataclass
class Scene:
    owner: Session
    eve: Session
    names: Names
    missing: Names
    version: Version
    table: Table
    project: Any
    scratch: Path
    other_run: str

    @property
    def things(self) -> list[str]:
        n = self.names
        return [f"model/{n.model}", f"view/{n.view}", f"table/{n.table}", f"run/{n.run}", f"experiment/{n.experiment}"]

    def of(self, names: Names) -> Version:
        return msgspec.structs.replace(self.version, id=names.version, model=names.model)


@pytest.fixture(scope="module")
def scene(kept: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    owner: Session = kept.session
    table = load_definitions(kept.folder).tables["sales"]
    view = FeatureView(name="shop_units", source=table, features={"units_7d": Aggregate("sum", "units", window="7d")}, online=True, pushed=True)
    with owner.change("apply", thing="view/shop_units") as change:
        register_view(owner, change, view, folder=kept.folder)
    materialise(owner, "shop_units")
    experiment = create_experiment(owner, "guarded trials")
    run = start_run(owner, experiment=experiment.id, name="a closed run")
    log(owner, run.id, TrackBatch(points=[Point("loss", 0.5, 1)]))
    put_file(owner, f"run/{run.id}", "model.txt", [b"weights"])
    names = Names("store-day", "store-day-v1", "shop_units", "sales", run.id, experiment.id, experiment.name)
    missing = Names("never-was", "never-was-v1", "never_seen", "nothing", "f" * len(run.id), "777", "no such trials")
    made = Scene(
        owner=owner,
        eve=replace(owner, actor=Actor("eve"), role=Role.APPROVER, admin=False),
        names=names,
        missing=missing,
        version=get_version(owner, names.version),
        table=table,
        project=kept,
        scratch=tmp_path_factory.mktemp("scratch"),
        other_run=start_run(owner, name="an open run").id,
    )
    for thing in made.things:
        restrict(owner, thing)
    return made  # type: ignore[return-value]  # nothing is to be undone


SPINE = pa.table({"store_id": ["S1"], "at": pa.array([datetime(2025, 3, 1, tzinfo=UTC)], pa.timestamp("us", tz="UTC"))})
Call = Callable[[Scene, Names], dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """How a verb meets a closed thing. ``made``: it takes the thing along, or makes one of the name, so nothing is missed where there is none."""

    call: Call
    made: bool = False
    refused: type[EndcapError] = NotFound
    reads: bool = True


def model(**options: Any) -> Row:
    return Row(lambda _, n: {"model": n.model, **options})


def version(**options: Any) -> Row:
    return Row(lambda _, n: {"version": n.version, **options})


def view(**options: Any) -> Row:
    return Row(lambda _, n: {"view": n.view, **options})


def run(**options: Any) -> Row:
    return Row(lambda _, n: {"run": n.run, **options})


def experiment() -> Row:
    return Row(lambda _, n: {"experiment": n.experiment})


def verdict(scene: Scene, names: Names) -> Verdict:
    return Verdict(id="v", model=names.model, version=names.version, at=scene.owner.now(), passed=False, checks=())


def batch(scene: Scene, names: Names) -> Any:
    return msgspec.structs.replace(find_batch(scene.owner, "store-day"), model=names.model, version=names.version)


FINDS: dict[str, list[Row]] = {
    "approve": [version()],
    "card": [Row(lambda s, n: {"version": n.version, "out": s.scratch / "card.html"})],
    "check-members": [Row(lambda s, n: {"version": s.of(n), "watch": MemberQuality()}, made=True)],
    "check-quality": [Row(lambda s, n: {"version": s.of(n), "watch": Quality(least_rows=1)}, made=True)],
    "compare": [Row(lambda _, n: {"model": n.model, "challenger": n.version})],
    "comparison": [model()],
    "comparisons": [model()],
    "create-model": [Row(lambda _, n: {"model": n.model}, made=True, refused=Conflict)],
    "describe-model": [model(description="mine")],
    "describe-version": [version(description="mine")],
    "features drift": [view(), Row(lambda _, n: {"view": n.view, "model": n.model})],
    "features label": [view(label="mine")],
    "features materialise": [view()],
    "features online": [Row(lambda _, n: {"views": [n.view], "keys": {"store_id": ["S1"]}})],
    "features page": [Row(lambda s, n: {"view": n.view, "out": s.scratch / "page.html"})],
    "features push": [view(rows=[{"store_id": "S1", "units_7d": 1, "__event_at": "2025-03-01T00:00:00Z"}])],
    "features show": [view()],
    "features unlabel": [view(label="mine")],
    "history": [model()],
    "ingest": [Row(lambda s, n: {"table": msgspec.structs.replace(s.table, name=n.table), "folder": s.project.folder}, made=True)],
    "insight": [model()],
    "join-outcomes": [],
    "judge": [version()],
    "lineage": [
        Row(lambda _, n: {"thing": n.model}),
        Row(lambda _, n: {"thing": f"view/{n.view}"}),
        Row(lambda _, n: {"thing": n.version}),
        Row(lambda _, n: {"thing": f"table/{n.table}"}),
        Row(lambda _, n: {"thing": f"{n.table}.units"}),
        Row(lambda _, n: {"thing": f"{n.view}.units_7d"}),
    ],
    "log-predictions": [Row(lambda s, n: {"batches": [(batch(s, n), None)]}, made=True)],
    "download": [Row(lambda s, n: {"version": n.version, "out": s.scratch / "files"})],
    "members": [version()],
    "name-version": [version(alias="mine")],
    "named": [model(alias="champion")],
    "override": [version(reason="mine")],
    "parity": [view()],
    "pin": [model()],
    "predictions": [Row(lambda s, n: {"model": n.model, "out": s.scratch / "f.csv", "format": "csv"})],
    "promote": [version()],
    "quarantine": [Row(lambda _, n: {"table": n.table})],
    "readings": [model()],
    "record-verdict": [Row(lambda s, n: {"verdict": verdict(s, n)}, made=True)],
    "register": [Row(lambda s, n: {"version": msgspec.structs.replace(s.of(n), identity="mine")}, made=True)],
    "register-run": [
        Row(lambda _, n: {"owner": n.run, "path": "", "model": "own"}),
    ],
    "reject": [version(comment="mine")],
    "request-approval": [version()],
    "retire": [model()],
    "rights grant": [Row(lambda _, n: {"thing": f"model/{n.model}", "to": "user/eve"})],
    "rights ls": [
        Row(lambda _, n: {"thing": f"model/{n.model}"}),
        Row(lambda _, n: {"thing": f"view/{n.view}"}),
        Row(lambda _, n: {"thing": f"table/{n.table}"}),
        Row(lambda _, n: {"thing": f"run/{n.run}"}),
        Row(lambda _, n: {"thing": f"experiment/{n.experiment}"}),
    ],
    "rights open": [Row(lambda _, n: {"thing": f"view/{n.view}"})],
    "rights restrict": [Row(lambda _, n: {"thing": f"table/{n.table}"})],
    "rights revoke": [Row(lambda _, n: {"thing": f"run/{n.run}", "to": "user/eve"})],
    "rights transfer": [Row(lambda _, n: {"thing": f"experiment/{n.experiment}", "to": "eve"})],
    "rollback": [model()],
    "share": [
        Row(lambda _, n: {"thing": f"view/{n.view}", "to": "web"}),
        Row(lambda _, n: {"thing": f"model/{n.model}", "to": "web"}),
        Row(lambda _, n: {"thing": f"version/{n.version}", "to": "web"}),
    ],
    "unshare": [Row(lambda _, n: {"thing": f"view/{n.view}", "to": "web"})],
    "show": [Row(lambda _, n: {"thing": n.model}), Row(lambda _, n: {"thing": n.version})],
    "start-comparison": [Row(lambda _, n: {"challenger": n.version, "groups": Groups(("S1",), ("S2",))})],
    "stop-comparison": [model(keep="a")],
    "tag-model": [model(name="mine", value="x")],
    "tag-version": [version(name="mine", value="x")],
    "trace": [Row(lambda _, n: {"thing": n.version})],
    "track compare": [Row(lambda s, n: {"runs": [n.run, s.other_run]})],
    "track delete-experiment": [experiment(), Row(lambda _, n: {"experiment": n.experiment_name})],
    "track delete-run": [run()],
    "track download": [Row(lambda s, n: {"run": n.run, "out": s.scratch / "files"})],
    "track files": [run()],
    "track metric": [run(name="loss")],
    "track restore-experiment": [experiment()],
    "track restore-run": [run()],
    "track search": [Row(lambda _, n: {"experiments": [n.experiment]}), Row(lambda _, n: {"experiments": [n.experiment_name]})],
    "track show": [run()],
    "training-set": [Row(lambda _, n: {"spine": SPINE, "views": [n.view], "at": "at"})],
    "unname-version": [model(alias="mine")],
    "unpin": [model()],
    "unretire": [model()],
    "versions": [model()],
    "withdraw": [version()],
}
LISTS: dict[str, list[Callable[[Scene], dict[str, Any]]]] = {
    "approvals": [lambda _: {"status": "all"}],
    "audit": [lambda _: {"limit": 1000}, *(lambda s, i=i: {"thing": s.things[i]} for i in range(5))],
    "cost": [lambda _: {}, lambda _: {"by": "actor"}, lambda _: {"by": "day"}],
    "features search": [lambda _: {}, lambda s: {"words": [s.names.view]}],
    "incidents": [lambda _: {}],
    "list-ingests": [lambda _: {}, lambda s: {"table": s.names.table}],
    "ls": [lambda _: {}],
    "notices": [lambda _: {}],
    "rights ls": [lambda _: {}],
    "retention show": [lambda _: {}],
    "runs": [lambda _: {}, lambda s: {"model": s.names.model}],
    "track experiments": [lambda _: {"stage": None}],
    "track search": [lambda _: {"stage": None, "limit": 1000}],
}
OF_A_FILE = {
    "apply": "what is closed is left as it is (test_what_is_closed_is_left_to_others_by_a_file_that_defines_it)",
    "plan": "as apply",
    "run": "as apply, and then as register",
    "queue": "test_the_queue_says_of_runs_of_closed_things_that_they_run",
    "leave-queue": "one's own run, by an id that nobody guesses",
    "shares ls": "tests/unit/project/test_sharing.py",
    "forecast": "a run of a definition file that it wrote",
    "features pages": "test_pages_of_all_views_leave_out_what_is_closed",
    "track create-experiment": "test_names_and_numbers_of_closed_experiments_stay_taken",
}
APART = {
    "people, groups, tokens, secrets": {"users", "groups", "tokens", "providers", "sessions", "secrets"},
    "what is used, by whom": {"quotas"},
    "the home as a whole, for those who see all of it": {
        "setup", "setup-code", "retention apply", "retention hold", "retention lift", "retention set", "forget", "forgotten", "readmit",
        "keys", "audit-keys", "backup", "backups", "deliver-notices", "environments", "export-audit", "init", "restore", "rotate-audit-key",
        "set-environment", "sign-audit", "verify-audit", "webhooks",
    },
}  # fmt: skip


def is_apart(name: str) -> bool:
    return any(name in names or name.partition(" ")[0] in names for names in APART.values())


def test_every_verb_has_a_row() -> None:
    rows = {*FINDS, *LISTS, *OF_A_FILE}
    assert rows <= set(ALL)
    assert {name for name in ALL if name not in rows and not is_apart(name)} == set()
    assert not any(is_apart(name) for name in rows)


FOUND = [(name, n) for name, rows in sorted(FINDS.items()) for n in range(len(rows))]


def attempt(session: Session, name: str, arguments: dict[str, Any]) -> EndcapError:
    with pytest.raises(EndcapError) as caught:
        ALL[name].call(session, **arguments)
    return caught.value


@pytest.mark.parametrize(("name", "n"), FOUND)
def test_a_closed_thing_is_missed_as_one_that_never_was(scene: Scene, name: str, n: int) -> None:
    row = FINDS[name][n]
    before = list_audit(scene.owner, limit=1)
    hidden = attempt(scene.eve, name, row.call(scene, scene.names))
    assert type(hidden) is row.refused, str(hidden)
    assert list_audit(scene.owner, limit=1) == before, "nothing was done, and nothing told"
    if not row.made:
        missing = attempt(scene.eve, name, row.call(scene, scene.missing))
        assert type(missing) is type(hidden)
        assert scene.names.forget(str(hidden), scene.missing) == scene.missing.forget(str(missing), scene.missing)


@pytest.fixture
def read_only(scene: Scene) -> Iterator[Scene]:
    for thing in scene.things:
        grant_right(scene.owner, thing, to="user/eve", may="read")
    yield scene
    for thing in scene.things:
        guard = find_guard(scene.owner, thing)
        if guard is not None and "user/eve" in guard.may:
            revoke_right(scene.owner, thing, to="user/eve")


@pytest.mark.parametrize(("name", "n"), FOUND)
def test_whoever_may_read_a_closed_thing_reads_it_and_is_refused_the_rest(read_only: Scene, name: str, n: int) -> None:
    scene, row = read_only, FINDS[name][n]
    arguments = row.call(scene, scene.names)
    if name in READERS:
        if name in ("comparison", "features drift", "register-run"):  # of which there is none, and no file that can be served
            assert not isinstance(attempt(scene.eve, name, arguments), PermissionDenied)
        else:
            ALL[name].call(scene.eve, **arguments)
        return
    error = attempt(scene.eve, name, arguments)
    if isinstance(error, PermissionDenied):
        (refusal,) = list_audit(scene.owner, limit=1)
        assert (refusal.outcome, refusal.actor, refusal.verb) == ("refused", "eve", name)
    else:
        assert name in SETTLED_BEFORE, f"{name}: {type(error).__name__}: {error}"


READERS = {name for name in FINDS if ALL[name].permission is Permission.READ} | {"training-set", "ingest", "register-run"}
"""Verbs that read the closed thing: a table of which nothing is new, a run whose files become the version of another model."""
SETTLED_BEFORE = {
    "approve": "nothing waits for approval",
}


@pytest.mark.parametrize("name", sorted(LISTS))
def test_no_list_names_a_closed_thing(scene: Scene, name: str) -> None:
    n = scene.names
    for call in LISTS[name]:
        found = [msgspec.json.encode(entry, enc_hook=str).decode() for entry in ALL[name].call(scene.eve, **call(scene))]
        words = (n.model, n.view, n.experiment_name, f"table/{n.table}", f"run/{n.run}" if name == "audit" else n.run)
        for told in found:
            thing = told if name != "audit" else f"{msgspec.json.decode(told)['thing']}"  # a row of an open thing may name a run by its id
            assert not [word for word in words if word in thing], told


def test_what_is_closed_is_left_to_others_by_a_file_that_defines_it(scene: Scene) -> None:
    verbs, folder = load_verbs(), scene.project.folder
    planned = verbs["plan"].call(scene.eve, folder=folder)
    assert [(found.name, found.change) for found in planned.models] == [("store-day", "closed")]
    before = list_audit(scene.owner, limit=1)
    assert verbs["apply"].call(scene.eve, folder=folder) == planned
    assert list_audit(scene.owner, limit=1) == before
    with pytest.raises(NotFound, match="No model 'store-day' in workspace 'default'"):
        verbs["run"].call(scene.eve, model="store-day", folder=folder)


def test_the_queue_says_of_runs_of_closed_things_that_they_run(scene: Scene) -> None:
    queue, view = load_verbs()["queue"].call, find_view(scene.owner, "shop_units").id
    with hold_place(scene.owner, "model/store-day"), hold_place(replace(scene.owner, actor=Actor("bea")), f"features/{view}"):
        assert {line.subject for line in queue(scene.owner)} == {"model/store-day", f"features/{view}"}
        assert len({line.subject for line in queue(scene.eve)}) == 1
        assert not [line for line in queue(scene.eve) if "store-day" in str(line) or "shop_units" in str(line)]


SPY = """
import endcap as ec
from pathlib import Path

sales = ec.Table("sales", "{folder}/data/sales/*.parquet", event_time="date", zone="Europe/Berlin")
{source}
spy = ec.FeatureView(name="spy", source={name}, keys=["store_id"], features={{"seen": ec.last("{column}", "7d")}})
"""


@pytest.mark.parametrize(
    ("source", "name", "column", "said"),
    [
        ("", "sales", "units", "No table 'sales' in workspace 'default'"),
        ('answers = ec.predictions_of("store-day", keys=["store_id"])', "answers", "forecast", "No model 'store-day' in workspace 'default'"),
    ],
)
def test_nobody_applies_a_view_of_what_is_closed_to_them(scene: Scene, tmp_path: Path, source: str, name: str, column: str, said: str) -> None:
    text = SPY.format(folder=scene.project.folder, source=source, name=name, column=column)
    (tmp_path / "project.py").write_text(text, encoding="utf-8")
    with pytest.raises(NotFound, match=said):
        load_verbs()["apply"].call(scene.eve, folder=tmp_path)
    with pytest.raises(NotFound, match="No feature view 'spy'"):
        find_view(scene.owner, "spy")


def test_pages_of_all_views_leave_out_what_is_closed(scene: Scene, tmp_path: Path) -> None:
    with scene.owner.change("apply", thing="view/open_units") as change:
        plain = FeatureView(name="open_units", source=scene.table, features={"units_1d": Aggregate("sum", "units", window="1d")})
        register_view(scene.owner, change, plain, folder=scene.project.folder)
    load_verbs()["features pages"].call(scene.eve, out=tmp_path / "pages")
    written = {path: path.read_text(encoding="utf-8") for path in (tmp_path / "pages").rglob("*") if path.is_file()}
    assert any("open_units" in text for text in written.values())
    assert not any("shop_units" in text or "shop_units" in path.name for path, text in written.items())


def test_names_and_numbers_of_closed_experiments_stay_taken(scene: Scene) -> None:
    with pytest.raises(Conflict, match="'guarded trials' stands already"):
        create_experiment(scene.eve, "guarded trials")
    made = create_experiment(scene.eve, "open trials")
    assert int(made.id) > int(scene.names.experiment)
    with pytest.raises(NotFound):
        start_run(scene.eve, experiment=scene.names.experiment)


def test_whoever_may_read_a_view_trains_on_it_though_its_table_is_closed_to_them(scene: Scene) -> None:
    verbs = load_verbs()
    with pytest.raises(NotFound, match="No feature view 'shop_units'"):
        verbs["training-set"].call(scene.eve, SPINE, ["shop_units"], at="at")
    with pytest.raises(NotFound, match="No feature view 'shop_units'"):
        verbs["training-set"].call(scene.eve, SPINE, [find_view(scene.owner, "shop_units").view], at="at", folder=scene.project.folder)
    own = FeatureView(name="own_units", source=scene.table, features={"units_1d": Aggregate("sum", "units", window="1d")})
    with pytest.raises(NotFound, match="No table 'sales'"):
        verbs["training-set"].call(scene.eve, SPINE, [own], at="at", folder=scene.project.folder)
    grant_right(scene.owner, "view/shop_units", to="user/eve")
    try:
        assert verbs["training-set"].call(scene.eve, SPINE, ["shop_units"], at="at").n_rows == 1
        with pytest.raises(NotFound, match="No table 'sales'"):
            verbs["training-set"].call(scene.eve, SPINE, [own], at="at", folder=scene.project.folder)
    finally:
        revoke_right(scene.owner, "view/shop_units", to="user/eve")

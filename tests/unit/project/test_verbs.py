"""The table of verbs: it is whole, each row of it is guarded, and what changes something says so in the audit chain."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

import endcap
from endcap.core.definitions.aggregates import Aggregate
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.watches import Quality
from endcap.core.errors import PermissionDenied
from endcap.core.permissions import Permission, Role
from endcap.faces.cli.commands import offered_verbs
from endcap.governance.audit import list_audit
from endcap.governance.audit_keys import open_key
from endcap.governance.groups import add_group, list_groups
from endcap.governance.keys.records import DATA_KEYS
from endcap.governance.people import add_user, has_users
from endcap.governance.privacy.subjects import Subjects
from endcap.governance.records import HOUSE, Actor
from endcap.governance.sessions import Change
from endcap.governance.signin.records import PROVIDERS, Provider
from endcap.governance.tokens import list_tokens
from endcap.governance.verbs import Verb
from endcap.governance.webhooks import list_webhooks
from endcap.loop.deployment.batches import find_batch, read_batch
from endcap.loop.deployment.records import Batch
from endcap.loop.evaluation.records import VERDICTS, CheckResult, Groups, Verdict
from endcap.loop.features.catalogue import find_view, register_view
from endcap.loop.features.online import write_online
from endcap.loop.features.records import SNAPSHOTS, VIEW_HEADS, VIEW_VERSIONS, Snapshot
from endcap.loop.registry.records import (
    APPROVAL_REQUESTS,
    COMPARISONS,
    RELEASES,
    SEATS,
    ApprovalRequest,
    Comparison,
    Seat,
    Seats,
    Version,
)
from endcap.loop.registry.versions import get_version, latest_verdict
from endcap.loop.training.tracking.run_files import put_file
from endcap.loop.training.tracking.tracked_runs import start_run
from endcap.project.definitions import load_definitions
from endcap.project.verbs import MODULES, load_verbs
from endcap.testing.packages import log_package, make_onnx_package
from endcap.testing.places import put_elsewhere
from endcap.testing.sessions import make_session

TESTS = Path(__file__).parents[2]
ALL = sorted(load_verbs().items())


def all_modules() -> Iterator[Any]:
    for found in pkgutil.walk_packages(endcap.__path__, "endcap."):
        yield importlib.import_module(found.name)


def test_every_verb_of_the_package_stands_in_the_table() -> None:
    found = {}
    for module in all_modules():
        for value in vars(module).values():
            entry = getattr(value, "__verb__", None)
            if isinstance(entry, Verb) and value.__module__ == module.__name__:
                assert module.__name__ in MODULES, f"{module.__name__} defines the verb '{entry.name}' and is not in endcap.project.verbs.MODULES"
                found[entry.name] = entry
    assert found == load_verbs()


def test_every_module_of_the_table_has_a_verb() -> None:
    assert {entry.call.__module__ for _, entry in ALL} == set(MODULES)


@pytest.mark.parametrize(("name", "entry"), ALL)
def test_a_verb_has_a_permission_help_and_a_session(name: str, entry: Verb) -> None:
    assert isinstance(entry.permission, Permission)
    assert re.fullmatch(r"[a-z]+([- ][a-z]+)*", name)
    assert len(entry.summary) > 20
    assert entry.summary.endswith((".", ":"))
    assert next(iter(inspect.signature(entry.call).parameters)) == "session"
    for parameter in entry.parameters:
        assert parameter.annotation is not inspect.Parameter.empty


@pytest.mark.parametrize(("name", "entry"), ALL)
def test_a_verb_has_a_test(name: str, entry: Verb) -> None:
    called = re.compile(rf'\b{entry.call.__name__}\(|["\']{re.escape(name)}["\']')
    others = [path for path in TESTS.rglob("test_*.py") if path.name not in (Path(__file__).name, "test_verb_permissions.py")]
    assert any(called.search(path.read_text(encoding="utf-8")) for path in others), f"no test calls {entry.call.__name__}"


@pytest.mark.parametrize(("name", "entry"), sorted(offered_verbs().items()))
def test_a_command_says_what_its_options_are(name: str, entry: Verb) -> None:
    for parameter in entry.parameters:
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.name not in ("folder", "reporter"):
            assert f"``{parameter.name}``" in entry.help, f"the help of '{name}' does not speak of {parameter.name}"


# What each verb is called with, on a project that ran. A new verb has no line here, and fails until it has one.


@dataclass
class Scene:
    project: Any
    session: Any
    version: Version
    verdict: Verdict
    batch: Batch
    scratch: Path

    @property
    def second(self) -> Version:
        """Another version, passed by the gate against the champion."""
        return get_version(self.session, "store-day-v2")


def judge(scene: Scene) -> Verdict:
    return msgspec.structs.replace(scene.verdict, id="verdict_x", version="store-day-v2", against=scene.version.id)


def compared(scene: Scene) -> str:
    """The model, with a comparison that ended before anyone looked."""
    session, at = scene.session, scene.session.now()
    old = Comparison(
        id="store-day-c1",
        model="store-day",
        environment="prod",
        champion="store-day-v1",
        challenger="store-day-v2",
        members=session.blobs.put(msgspec.json.encode(GROUPS)),
        n_a=2,
        n_b=2,
        since=at,
        started_by="ada",
        metric="wape",
        smallest=0.02,
        n_days=28,
        verdict="verdict_x",
        until=at,
    )
    if session.records.get(COMPARISONS, workspace=session.workspace, id=old.id) is None:
        with session.records.transact() as tx:
            tx.append(COMPARISONS, workspace=session.workspace, record=old)
    return "store-day"


def seated(scene: Scene) -> str:
    """A version that stands beside the champion, as promote leaves it."""
    session, version = scene.session, "store-day-v2"
    row = msgspec.structs.replace(session.records.find(RELEASES, workspace=session.workspace)[0], id="release_s", version=version, role="shadow")
    seats = Seats("store-day/prod", "store-day", "prod", (Seat(version, "shadow", None, row.id, row.at),))
    with session.records.transact() as tx:
        tx.append(RELEASES, workspace=session.workspace, record=row)
        tx.append(SEATS, workspace=session.workspace, record=seats)
    return version


def judged_for(scene: Scene, environment: str, *, passed: bool) -> str:
    """A version with a verdict of another environment, by somebody who is not here to approve."""
    session, version = scene.session, "store-day-v2"
    checks = (CheckResult(check="bias", passed=passed, figure=0.2, limit="0.05", sentence="bias is +20 %"),)
    verdict = Verdict(
        id=f"verdict_{environment}",
        model="store-day",
        version=version,
        at=session.now(),
        passed=passed,
        checks=checks,
        environment=environment,
    )
    with session.records.transact() as tx:
        tx.append(VERDICTS, workspace=session.workspace, record=verdict)
    return version


def pending(scene: Scene) -> str:
    return judged_for(scene, "qa", passed=True)


def failing(scene: Scene) -> str:
    return judged_for(scene, "dev", passed=False)


def awaited(scene: Scene) -> str:
    """A version that waits for people."""
    session, version = scene.session, judged_for(scene, "staging", passed=True)
    at = session.now()
    request = ApprovalRequest(
        id="approval_x",
        model="store-day",
        version=version,
        environment="staging",
        kind="gate",
        verdict="verdict_staging",
        requested_by="bob",
        at=at,
        expires_at=at + timedelta(days=1),
        n_needed=1,
    )
    with session.records.transact() as tx:
        tx.append(APPROVAL_REQUESTS, workspace=session.workspace, record=request)
    return version


def materialised(scene: Scene) -> str:
    """A view with two snapshots, as materialisations leave them."""
    session = scene.session
    with session.records.transact() as tx:
        for n in (1, 2):
            snapshot = Snapshot(
                id=f"snapshot_{n}", view="traffic", version="v", at=session.now(), n_rows=0, first_event=None, last_event=None, profiles=()
            )
            if tx.get(SNAPSHOTS, workspace=session.workspace, id=snapshot.id) is None:
                tx.append(SNAPSHOTS, workspace=session.workspace, record=snapshot)
    return "traffic"


def viewed(scene: Scene) -> str:
    """A feature view of the stores' sales that was applied before anyone looked."""
    session, folder = scene.session, scene.project.folder
    sales = load_definitions(folder).tables["sales"]
    view = FeatureView(name="store_units", source=sales, features={"units_7d": Aggregate("sum", "units", window="7d")})
    if session.records.get(VIEW_HEADS, workspace=session.workspace, id=view.name) is None:
        with session.records.transact() as tx:
            register_view(session, Change(tx), view, folder=folder)
    return view.name


def served(scene: Scene) -> str:
    """The view, with a row online, as materialisations leave it."""
    session, name = scene.session, viewed(scene)
    version = find_view(session, name)
    if not version.stored_types:
        types = {
            "key_types": {"store_id": "text"},
            "feature_types": {"units_7d": "integer"},
            "stored_types": {"store_id": "VARCHAR", "units_7d": "BIGINT"},
        }
        version = msgspec.structs.replace(version, **types)
        with session.records.transact() as tx:
            _, n = tx.get_versioned(VIEW_VERSIONS, workspace=session.workspace, id=version.id) or (None, 0)
            tx.put(VIEW_VERSIONS, workspace=session.workspace, record=version, expected_version=n)
        at = pa.array([session.now().replace(tzinfo=None)], pa.timestamp("us"))
        write_online(session, version, pa.table({"store_id": ["S1"], "__event_at": at, "__known_at": at, "units_7d": [1]}))
    return name


def known(scene: Scene) -> str:
    """A user who was made before anyone looked."""
    if not has_users(scene.session.records):
        add_user(scene.session, "bea")
    return "bea"


def freed(scene: Scene) -> str:
    """A data key that was retired before and on which nothing leans."""
    (old, *_) = scene.session.records.find(DATA_KEYS, workspace=HOUSE, where={"workspace": scene.session.workspace})
    with scene.session.records.transact() as tx:
        retired = msgspec.structs.replace(old, retired_at=scene.session.now() - timedelta(hours=2))
        tx.put(DATA_KEYS, workspace=HOUSE, record=retired, expected_version=(tx.get_versioned(DATA_KEYS, workspace=HOUSE, id=old.id) or (old, 0))[1])
    return old.id


def grouped(scene: Scene) -> str:
    """A group that was made before anyone looked."""
    if not list_groups(scene.session, everywhere=True):
        add_group(scene.session, "demand")
    return "demand"


def waiting(scene: Scene) -> str:
    """A run of another machine that waits in the queue."""
    return put_elsewhere(scene.session, state="waiting").id


def tracked(scene: Scene) -> str:
    """A run of somebody's training code."""
    return start_run(scene.session).id


def logged_run(scene: Scene) -> str:
    """A run with a file."""
    run = tracked(scene)
    put_file(scene.session, f"run/{run}", "loss.txt", [b"0.41"])
    return run


def provided(scene: Scene) -> str:
    """A provider of sign-in that was added before anyone looked."""
    at, url = scene.session.now(), "https://login.example.com"
    texts = dict.fromkeys(("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"), url)
    given = {"client_id": "x", "secret": b"", "scopes": (), "name_claim": "sub", "groups_claim": "", "algorithms": ("RS256",), "read_at": at}
    provider = Provider(name="corp", lets_in=False, by_post=False, names_itself=False, made_at=at, made_by="ada", **texts, **given)
    with scene.session.records.transact() as tx:
        tx.append(PROVIDERS, workspace=HOUSE, record=provider)
    return provider.name


def remembered(scene: Scene) -> str:
    """Somebody of whom the workspace may have kept something."""
    Subjects(scene.session).note_kind("customer_id")
    return "customer_id=1"


SPINE = pa.table({"store_id": ["S1", None], "at": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * 2, pa.timestamp("us", tz="UTC"))})
GROUPS = Groups(("S1", "S2"), ("S3", "S4"))
READS: dict[str, Callable[[Scene], dict[str, Any]]] = {
    "approvals": lambda _: {},
    "audit": lambda _: {"actor": "ada"},
    "audit-keys": lambda _: {},
    "card": lambda s: {"version": "store-day-v1", "out": s.scratch / "card.html"},
    "comparison": lambda s: {"model": compared(s)},
    "cost": lambda _: {},
    "comparisons": lambda s: {"model": compared(s)},
    "environments": lambda _: {},
    "features drift": lambda s: {"view": materialised(s)},
    "features online": lambda s: {"views": [served(s)], "keys": {"store_id": ["S1"]}},
    "features page": lambda s: {"view": viewed(s), "out": s.scratch / "view.html"},
    "features pages": lambda s: {"out": s.scratch / "views"},
    "features search": lambda s: {"words": [viewed(s)]},
    "features show": lambda s: {"view": viewed(s)},
    "forgotten": lambda _: {},
    "history": lambda _: {"model": "store-day"},
    "download": lambda s: {"version": "store-day-v1", "out": s.scratch / "files"},
    "retention show": lambda _: {},
    "rights ls": lambda _: {},
    "shares ls": lambda _: {},
    "incidents": lambda _: {},
    "insight": lambda _: {"model": "store-day"},
    "lineage": lambda _: {"thing": "store-day"},
    "list-ingests": lambda _: {},
    "ls": lambda _: {},
    "members": lambda _: {"version": "store-day-v1"},
    "named": lambda _: {"model": "store-day", "alias": "champion"},
    "plan": lambda s: {"folder": s.project.folder},
    "quarantine": lambda s: {"table": "stores", "out": s.scratch / "rows.csv"},
    "predictions": lambda s: {"model": "store-day", "out": s.scratch / "f.csv"},
    "queue": lambda _: {},
    "quotas ls": lambda _: {"everywhere": True},
    "quotas show": lambda _: {},
    "readings": lambda _: {"model": "store-day"},
    "runs": lambda _: {},
    "show": lambda _: {"thing": "store-day"},
    "secrets ls": lambda _: {},
    "tokens ls": lambda _: {},
    "notices": lambda _: {},
    "webhooks ls": lambda _: {},
    "trace": lambda _: {"thing": "store-day-v1"},
    "users ls": lambda _: {},
    "providers ls": lambda _: {},
    "sessions ls": lambda _: {},
    "groups ls": lambda _: {},
    "groups show": lambda s: {"group": grouped(s)},
    "track compare": lambda s: {"runs": [tracked(s), tracked(s)]},
    "track experiments": lambda _: {},
    "track download": lambda s: {"run": logged_run(s), "out": s.scratch / "files"},
    "track files": lambda s: {"run": s.version.identity},
    "track metric": lambda s: {"run": s.version.identity, "name": "wape"},
    "track search": lambda _: {"filter": "metrics.wape < 1"},
    "track show": lambda s: {"run": s.version.identity},
    "verify-audit": lambda _: {},
    "versions": lambda _: {"model": "store-day"},
}
CHANGES: dict[str, Callable[[Scene], dict[str, Any]]] = {
    # in this order: a version is registered, judged, promoted and rolled back
    "register": lambda s: {"version": msgspec.structs.replace(s.version, identity="another")},
    "record-verdict": lambda s: {"verdict": judge(s)},
    "promote": lambda _: {"version": "store-day-v2"},
    "pin": lambda _: {"model": "store-day"},
    "unpin": lambda _: {"model": "store-day"},
    "rollback": lambda _: {"model": "store-day"},
    "withdraw": lambda s: {"version": seated(s)},
    "set-environment": lambda _: {"name": "qa", "approvals": 1},
    "request-approval": lambda s: {"version": pending(s), "environment": "qa"},
    "approve": lambda _: {"version": "store-day-v2", "environment": "qa"},
    "override": lambda s: {"version": failing(s), "environment": "dev", "reason": "needed"},
    "reject": lambda s: {"version": awaited(s), "comment": "no", "environment": "staging"},
    "start-comparison": lambda _: {"challenger": "store-day-v2", "groups": GROUPS},
    "stop-comparison": lambda _: {"model": "store-day", "keep": "a"},
    "retire": lambda _: {"model": "store-day"},
    "unretire": lambda _: {"model": "store-day"},
    "create-model": lambda _: {"model": "fraud"},
    "describe-model": lambda _: {"model": "fraud", "description": "who cheats"},
    "tag-model": lambda _: {"model": "fraud", "name": "team", "value": "trust"},
    "register-run": lambda s: {"owner": log_package(s.session, make_onnx_package()), "path": "model", "model": "fraud"},
    "describe-version": lambda _: {"version": "fraud-v1", "description": "the first"},
    "tag-version": lambda _: {"version": "fraud-v1", "name": "season", "value": "winter"},
    "name-version": lambda _: {"version": "fraud-v1", "alias": "blue"},
    "unname-version": lambda _: {"model": "fraud", "alias": "blue"},
    "log-predictions": lambda s: {"batches": [(s.batch, [answers(s)])]},
    "ingest": lambda s: {"table": load_definitions(s.project.folder).tables["stores"], "folder": s.project.folder, "zone": "Asia/Tokyo"},
    "apply": lambda s: {"folder": changed(s)},
    "features materialise": lambda s: {"view": viewed(s)},
    "secrets set": lambda _: {"name": "DB", "password": "c4nary"},
    "secrets remove": lambda _: {"name": "DB"},
    "keys seal": lambda _: {"off": True},
    "keys rotate": lambda _: {},
    "keys rewrap": lambda _: {},
    "keys destroy": lambda s: {"key": freed(s)},
    "webhooks add": lambda _: {"url": "https://hooks.example.com/x"},
    "webhooks remove": lambda s: {"webhook": list_webhooks(s.session)[0].id},
    "users grant": lambda s: {"name": known(s), "role": "owner"},
    "rights restrict": lambda _: {"thing": "model/fraud"},
    "rights grant": lambda s: {"thing": "model/fraud", "to": f"user/{known(s)}", "may": "edit"},
    "rights revoke": lambda s: {"thing": "model/fraud", "to": f"user/{known(s)}"},
    "rights transfer": lambda s: {"thing": "model/fraud", "to": known(s)},
    "rights open": lambda _: {"thing": "model/fraud"},
    "share": lambda _: {"thing": "model/fraud", "to": "web"},
    "unshare": lambda _: {"thing": "model/fraud", "to": "web"},
    "groups grant": lambda s: {"group": grouped(s), "role": "viewer"},
    "tokens make": lambda s: {"label": "nightly", "user": known(s)},
    "tokens rotate": lambda s: {"token": list_tokens(s.session)[0].id},
    "tokens revoke": lambda s: {"token": list_tokens(s.session)[0].id},
    "training-set": lambda s: {"spine": SPINE, "views": [viewed(s)], "at": "at"},
    "features label": lambda s: {"view": viewed(s), "label": "gold"},
    "track create-experiment": lambda _: {"name": "another"},
    "track delete-experiment": lambda _: {"experiment": "another"},
    "track restore-experiment": lambda _: {"experiment": "another"},
    "track delete-run": lambda s: {"run": s.version.identity},
    "track restore-run": lambda s: {"run": s.version.identity},
    "features unlabel": lambda s: {"view": viewed(s), "label": "gold"},
    "forget": lambda s: {"key": remembered(s), "yes": True},
    "readmit": lambda s: {"key": remembered(s)},
    "retention set": lambda _: {"log": "notices", "period": "400d"},
    "retention hold": lambda _: {"thing": "model/fraud", "reason": "case 12"},
    "retention lift": lambda _: {"thing": "model/fraud"},
    "quotas set": lambda _: {"runs": 2},
    "quotas recount": lambda _: {},
    "quotas clear": lambda _: {},
    "leave-queue": lambda s: {"place": waiting(s)},
    "sign-audit": lambda _: {},
    "export-audit": lambda s: {"out": s.scratch / "audit.jsonl"},
}
BY_ANOTHER = {"approve"}  # whoever trained a version may not
OF_THE_HOUSE: dict[str, Callable[[Scene], dict[str, Any]]] = {
    # audited in the chain of the house, as they belong to no workspace
    "backup": lambda s: {"place": str(s.scratch / "vault")},
    "users add": lambda _: {"name": "cleo", "password": "a few words of hers"},
    "providers link": lambda s: {"provider": provided(s), "subject": "1234", "user": "cleo"},
    "providers unlink": lambda _: {"provider": "corp", "user": "cleo"},
    "providers remove": lambda _: {"name": "corp"},
    "sessions end": lambda _: {"user": "cleo"},
    "groups add": lambda _: {"name": "ops"},
    "groups join": lambda _: {"group": "ops", "user": "cleo"},
    "groups leave": lambda _: {"group": "ops", "user": "cleo"},
    "groups claim": lambda _: {"group": "ops", "claim": "eu-ops"},
    "groups rename": lambda _: {"group": "ops", "name": "operations"},
    "groups remove": lambda _: {"group": "operations"},
    "users admin": lambda _: {"name": "cleo"},
    "users unlock": lambda _: {"name": "cleo"},
    "users password": lambda _: {"name": "cleo", "password": "a few others of hers"},
    "users disable": lambda _: {"name": "cleo"},
    "users enable": lambda _: {"name": "cleo"},
    "rotate-audit-key": lambda _: {},
}
MADE_OF_OTHERS = {
    "providers add": "it asks a provider first; audited in the house (tests/unit/governance/signin/test_providers.py)",
    "compare": "it draws the groups; start-comparison is audited",
    "judge": "the verdict that it gives is audited (tests/unit/project/test_judging.py)",
    "run": "each of its parts is audited: apply, ingest, register, record-verdict, promote, log-predictions",
    "forecast": "a run of a definition file that it wrote",
    "restore": "the row stands in the home that it makes (tests/unit/project/test_backup_verbs.py)",
    "parity": "it ingests what is new; its report is audited (tests/unit/loop/features/test_parity.py)",
}
NOT_CHAINED = {
    "providers links": "a look at who is linked, for admins",
    "backups": "a look at a place outside the home",
    "keys ls": "a look at which keys there are; no key is shown",
    "deliver-notices": "what is sent is data in flow; a host that is refused is audited (tests/unit/governance/test_notices.py)",
    "features push": "what is pushed is data in flow; each push is on record (tests/unit/loop/features/test_pushes.py)",
    "check-quality": "a reading is data in flow; the incident of a breach is audited (tests/unit/loop/monitoring/test_quality.py)",
    "check-members": "as check-quality (tests/unit/loop/monitoring/test_members.py)",
    "join-outcomes": "outcomes are data in flow",
    "setup-code": "for a home without users; audited (tests/unit/governance/test_setting_up.py)",
    "setup": "as setup-code",
    "retention apply": "what it removes is audited, and nothing here is old (tests/unit/project/test_retention.py)",
    "init": "lays out files in a folder; the workspace knows nothing of them",
}


def answers(scene: Scene) -> Any:
    return read_batch(scene.session, scene.batch).drop_columns(["version", "predicted_at"])


def changed(scene: Scene) -> Path:
    scene.project.change('horizon="7d"', 'horizon="6d"')
    return Path(scene.project.folder)


def test_every_verb_is_one_that_reads_changes_or_has_a_reason() -> None:
    groups = [set(READS), set(CHANGES), set(OF_THE_HOUSE), set(MADE_OF_OTHERS), set(NOT_CHAINED)]
    assert sum(map(len, groups)) == len(set().union(*groups)) == len(load_verbs())
    assert set().union(*groups) == set(load_verbs())
    assert set(READS) == {name for name, entry in ALL if entry.permission is Permission.READ}


@pytest.fixture
def scene(project: Any, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    project.run()
    session = project.session
    version = get_version(session, "store-day-v1")
    verdict = latest_verdict(session, version.id)
    assert verdict is not None
    return Scene(project, session, version, verdict, find_batch(session, "store-day"), tmp_path_factory.mktemp("scratch"))


def test_what_changes_something_is_audited_and_what_reads_is_not(scene: Scene) -> None:
    session, verbs = scene.session, load_verbs()

    def rows() -> list[tuple[str, str]]:
        return [(row.verb, row.outcome) for row in reversed(list_audit(session, limit=500))]

    parts = {"apply", "ingest", "register", "record-verdict", "promote", "log-predictions", "track create-experiment"}
    assert {verb for verb, _ in rows()} == parts, "a run is audited by its parts"
    for name, values in READS.items():
        before = rows()
        verbs[name].call(session, **values(scene))
        assert rows() == before, f"'{name}' reads and yet was audited"
    for name, values in CHANGES.items():
        before = rows()
        by = replace(session, actor=Actor("bob")) if name in BY_ANOTHER else session
        verbs[name].call(by, **values(scene))
        assert rows() == [*before, (name, "done")], f"'{name}' changes something and was not audited once"


def test_what_changes_the_house_is_audited_there(scene: Scene) -> None:
    session, before = scene.session, list_audit(scene.session, limit=500)
    known(scene)
    open_key(scene.session)
    for name, values in OF_THE_HOUSE.items():
        n = len(list_audit(session, house=True))
        load_verbs()[name].call(session, **values(scene))
        assert [(row.verb, row.outcome) for row in list_audit(session, house=True)[:-n]] == [(name, "done")]
    assert list_audit(session, limit=500) == before


def test_data_in_flow_is_not_chained(scene: Scene) -> None:
    session, verbs = scene.session, load_verbs()
    before = list_audit(session, limit=500)
    task = load_definitions(scene.project.folder).task("store-day")
    assert task.keys == ("store_id",)
    actuals = answers(scene).select(["store_id", "ts", "forecast"]).rename_columns(["store_id", "ts", "actual"])
    assert verbs["join-outcomes"].call(session, "store-day", actuals) == scene.batch.n_rows
    assert verbs["check-quality"].call(session, scene.version, Quality(least_rows=1)).figure == 0.0
    started = verbs["init"].call(session, folder=scene.scratch / "new")
    assert len(started.files) == 4
    assert list_audit(session, limit=500) == before


def test_the_audit_shows_refusals_beside_changes_by_actor_and_thing(scene: Scene) -> None:
    viewer = make_session(role=Role.VIEWER, actor="bob")
    viewer = viewer.__class__(**{**vars(viewer), "ports": scene.session.ports})
    with pytest.raises(PermissionDenied):
        load_verbs()["rollback"].call(viewer, "store-day")
    audit = load_verbs()["audit"].call
    (row,) = audit(viewer, actor="bob")
    assert (row.verb, row.outcome) == ("rollback", "refused")
    assert audit(viewer)[0] == row
    assert {found.verb for found in audit(viewer, thing="model/store-day")} == {"apply", "register", "record-verdict", "promote", "log-predictions"}
    assert audit(viewer, thing="model/store-day", actor="bob") == []


def test_the_table_of_verbs_loads_nothing_heavy() -> None:
    said = "import sys; from endcap.project.verbs import load_verbs; load_verbs(); print([name for name in sys.argv[1:] if name in sys.modules])"
    heavy = [
        "numpy",
        "pyarrow",
        "numba",
        "scipy",
        "duckdb",
        "lightgbm",
        "matplotlib",
        "jinja2",
        "starlette",
        "redis",
        "sklearn",
        "skops",
        "yaml",
        "onnxruntime",
        "authlib",
        "joserfc",
    ]
    done = subprocess.run([sys.executable, "-c", said, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

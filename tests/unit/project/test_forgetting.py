from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.core.clock import ManualClock, SystemIds
from endcap.core.definitions import aggregates as ag
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.errors import Conflict, EndcapError, IntegrityBroken, InvalidInput, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.audit_heads import sign_audit
from endcap.governance.audit_keys import list_audit_keys, open_key, rotate_audit_key
from endcap.governance.keys.data_keys import KEPT_OPEN, forget_opened
from endcap.governance.keys.rotation import rotate_keys
from endcap.governance.privacy.records import FORGETTINGS
from endcap.governance.privacy.subjects import Subjects
from endcap.governance.sessions import Session
from endcap.loop.features.catalogue import find_view, register_view
from endcap.loop.features.kept.materialisation import materialise
from endcap.loop.features.kept.materialised import read_materialised, read_newest
from endcap.loop.features.online import open_online, sample_online
from endcap.loop.features.parity import check_parity
from endcap.loop.features.pushes import push
from endcap.loop.features.training_sets import TRAINING_ROWS, build_training_set, read_training_set
from endcap.project import forgetting
from endcap.project.backups import Backup, backup, list_backups, restore
from endcap.project.forgetting import forget, list_forgotten, readmit
from endcap.project.retention import hold_thing, lift_hold
from endcap.project.subject_lists import ForgottenList
from endcap.testing.sessions import make_session

START = datetime(2026, 3, 4, 9, tzinfo=UTC)
PEOPLE = Table(
    "people", "people.parquet", keys=("customer_id",), event_time="at", zone="UTC", personal=("email", "age"), keep="10 years: tax code 147"
)
FACTS = FeatureView(name="facts", source=PEOPLE, features=["email", "age", "spend"], pushed=True)
FOLDED = FeatureView(
    name="folded", source=PEOPLE, features={"mail": ag.last("email", "28d"), "mails": ag.distinct("email", "28d"), "n": ag.count("*", "28d")}
)
BY_MAIL = FeatureView(name="by_mail", source=PEOPLE, keys=["email"], features=["age", "spend"])
BY_STORE = FeatureView(name="by_store", source=PEOPLE, keys=["store"], features={"newest": ag.last("email", "28d"), "oldest": ag.max("age", "28d")})
VIEWS = (FACTS, FOLDED, BY_MAIL, BY_STORE)
EMAILS = {1: "ada-planted@x", 2: "bob-planted@x", 3: "홍길동-planted@x", 4: None}


class Shop:
    """A file of people, views of it, and a session."""

    def __init__(self, folder: Path, session: Session, *views: FeatureView) -> None:
        self.folder, self.session, self.views = folder, session, views or (FACTS,)
        folder.mkdir(exist_ok=True)
        self.write()
        with session.change("apply", thing="views") as change:
            for view in self.views:
                register_view(session, change, view, folder=folder)

    def write(self, n: int = 0) -> None:
        ids = [1, 2, 3, 4, 1]
        columns = {
            "customer_id": ids,
            "email": [EMAILS[one] for one in ids],
            "age": [31.5, 42.5, float("nan"), None, 31.5],
            "spend": [1.0, 2.0, 3.0, 4.0, 5.0 + n],
            "store": ["a", "a", "b", "b", "b"],
            "at": pa.array([datetime(2026, 3, 1 + day) for day in (0, 0, 0, 0, 1)], pa.timestamp("us")),  # noqa: DTZ001 - plain times of the table
        }
        pq.write_table(pa.table(columns), self.folder / "people.parquet")

    def work(self) -> None:
        for view in self.views:
            materialise(self.session, view.name)
        row = {"customer_id": 2, "email": "pushed-planted@x", "age": 43.0, "spend": 9.0, "__event_at": "2026-03-04T08:00:00Z"}
        push(self.session, "facts", [row, {**row, "customer_id": 1, "email": "ada-pushed-planted@x"}])
        self.train()

    def train(self) -> Any:
        spine = pa.table({"customer_id": [1, 2, 3], "at": pa.array([START] * 3, pa.timestamp("us", "UTC"))})
        return build_training_set(self.session, spine, ["facts"], at="at")

    def online(self, view: str, *keys: Any) -> list[Any]:
        found = open_online(self.session, [view]).read(list(keys))[0]
        return list(zip(*found.columns.values(), strict=True))

    def offline(self, view: str, column: str) -> list[Any]:
        rows = read_materialised(self.session, find_view(self.session, view))
        assert rows is not None
        return rows.to_table()[column].to_pylist()


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A view keyed by the person, in memory."""
    return Shop(tmp_path / "files", make_session(start=START))


@pytest.fixture
def mall(tmp_path: Path) -> Shop:
    """Views of all sorts, in memory; one in a folder stands below."""
    return Shop(tmp_path / "files", make_session(start=START), *VIEWS)


def planted(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file() and any(word in path.read_bytes() for word in (b"planted", "홍길동".encode()))]


def test_no_byte_of_a_personal_value_lies_in_the_home(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "files", make_session(tmp_path / "home", start=START), *VIEWS)
    shop.work()
    assert shop.online("facts", 1)[0][0] == "ada-pushed-planted@x"
    assert planted(tmp_path / "home") == []
    found = forget(shop.session, key="customer_id=1", yes=True)
    assert (found.state, found.n_online) == ("done", 2)
    assert [shop.online(view, 1)[0][0] for view in ("facts", "folded")] == [None, None]
    assert not {"ada-planted@x", "ada-pushed-planted@x"} & {*shop.offline("facts", "email"), *shop.offline("folded", "mail")}
    verify_audit(shop.session)
    shop.session.ports.close()
    assert planted(tmp_path / "home") == []
    assert planted(tmp_path / "files") != []


def test_inside_everything_reads_as_if_nothing_were_sealed(mall: Shop) -> None:
    mall.work()
    assert sorted(filter(None, mall.offline("facts", "email"))) == sorted(filter(None, [*EMAILS.values(), EMAILS[1]]))
    assert mall.offline("folded", "mails")[0] == 1
    assert set(mall.offline("folded", "mail")) == set(EMAILS.values())
    assert sorted(mall.offline("by_mail", "email")) == sorted([*filter(None, EMAILS.values()), EMAILS[1]])
    assert mall.online("by_mail", EMAILS[3], EMAILS[1], "nobody@x")[1:] == [(31.5, 5.0), (None, None)]
    assert mall.online("by_store", "a")[0][0] in EMAILS.values()
    assert sorted(sample_online(mall.session, find_view(mall.session, "by_mail"), 10)["email"]) == sorted(filter(None, EMAILS.values()))
    assert read_training_set(mall.session, mall.train())["email"].to_pylist() == ["ada-pushed-planted@x", "pushed-planted@x", EMAILS[3]]
    assert check_parity(mall.session, "facts", instants=0).passed


def test_a_later_batch_reads_what_earlier_ones_sealed(mall: Shop) -> None:
    mall.work()
    assert isinstance(mall.session.clock, ManualClock)
    mall.session.clock.advance(timedelta(days=2))
    materialise(mall.session, "folded")
    newest = read_newest(mall.session, find_view(mall.session, "folded"))
    assert newest is not None
    assert set(newest.to_table()["mail"].to_pylist()) == set(EMAILS.values())


def test_a_dry_run_says_what_it_would_touch_and_touches_nothing(mall: Shop) -> None:
    mall.work()
    before = mall.online("facts", 1), mall.offline("facts", "email"), len(list_audit(mall.session))
    found = forget(mall.session, key="customer_id=1", asked_by="ticket 7")
    assert (found.state, found.seen, found.kind) == ("planned", True, "customer_id")
    held = {(rows.thing.partition("@")[0], rows.what): rows.n_rows for rows in found.held}
    assert held["view/facts", "feature rows"] == 2
    assert held["view/facts", "pushed rows"] == 1
    assert held["view/folded", "tiles of windows"] > 0
    assert ("view/by_store", "feature rows") not in held
    assert any(thing.startswith("training-set/") for thing, _ in held)
    assert found.n_online == 2  # of facts and folded
    stays = {one.thing.partition("@")[0]: one for one in found.stays}
    assert "name people by ['email']" in stays["view/by_mail"].why
    assert "mix subjects" in stays["view/by_store"].why
    assert "counts" in next(one.why for one in found.stays if "mails" in one.why)
    assert [one.until for one in found.stays if "law" in one.why] == ["10 years: tax code 147"]
    assert "audit" in stays
    assert (mall.online("facts", 1), mall.offline("facts", "email"), len(list_audit(mall.session))) == before
    assert list_forgotten(mall.session) == []


def test_who_was_forgotten_is_read_nowhere(mall: Shop) -> None:
    mall.work()
    digests = [record.sha256 for record in [mall.train()]]
    found = forget(mall.session, key="customer_id=1", asked_by="ticket 7", yes=True)
    assert (found.state, found.n_online) == ("done", 2)
    assert mall.online("facts", 1, 2) == [(None, None, None), ("pushed-planted@x", 43.0, 9.0)]
    assert "ada-planted@x" not in mall.offline("facts", "email")
    assert "ada-planted@x" not in mall.offline("folded", "mail")
    assert len(mall.offline("facts", "email")) == 5
    record = mall.train()
    assert [record.sha256] == digests
    assert read_training_set(mall.session, record)["email"].to_pylist() == [None, "pushed-planted@x", EMAILS[3]]
    assert check_parity(mall.session, "facts", instants=0).passed
    verify_audit(mall.session)


def test_the_audit_names_nobody(shop: Shop) -> None:
    shop.work()
    found = forget(shop.session, key="customer_id=1", asked_by="ticket 7", reason="asked in writing", yes=True)
    row = next(row for row in list_audit(shop.session) if row.verb == "forget")
    assert row.thing == f"subject/{found.subject}"
    assert row.detail == {"kind": "customer_id", "asked_by": "ticket 7", "reason": "asked in writing"}
    (line,) = list_forgotten(shop.session)
    assert (line.subject, line.state, line.by, line.asked_by) == (found.subject, "done", "ada", "ticket 7")
    assert "customer_id=1" not in repr(found)


def test_doing_it_twice_changes_nothing(shop: Shop) -> None:
    shop.work()
    first = forget(shop.session, key="customer_id=1", yes=True)
    n = len(list_audit(shop.session))
    again = forget(shop.session, key="customer_id=1", yes=True)
    assert (again.state, again.at, again.n_online, len(list_audit(shop.session))) == ("stands", first.at, first.n_online, n)
    assert forget(shop.session, key="customer_id=1").state == "stands"


def test_what_comes_again_is_left_missing_until_somebody_readmits_it(shop: Shop) -> None:
    shop.work()
    forget(shop.session, key="customer_id=1", yes=True)
    push(shop.session, "facts", [{"customer_id": 1, "email": "again@x", "age": 1.0, "spend": 1.0, "__event_at": "2026-03-04T09:00:00Z"}])
    assert shop.online("facts", 1) == [(None, None, None)]
    shop.write(1)
    materialise(shop.session, "facts")
    assert "ada-planted@x" not in shop.offline("facts", "email")
    assert shop.online("facts", 1) == [(None, None, None)]
    assert readmit(shop.session, key="customer_id=1", asked_by="ticket 8").state == "readmitted"
    assert "ada-planted@x" not in shop.offline("facts", "email")
    push(shop.session, "facts", [{"customer_id": 1, "email": "new@x", "age": 1.0, "spend": 1.0, "__event_at": "2026-03-04T09:00:00Z"}])
    assert shop.online("facts", 1) == [("new@x", 1.0, 1.0)]
    assert forget(shop.session, key="customer_id=1", yes=True).state == "done"
    assert shop.online("facts", 1) == [(None, None, None)]


def test_a_run_that_is_on_its_way_does_not_write_the_subject_back(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key goes after the run took it and before it writes: at each of its writes, offline and online."""
    shop.work()
    shop.write(2)
    obtain, calls = Subjects.obtain, []

    def forget_meanwhile(self: Subjects, refs: Any) -> dict[bytes, bytes]:
        found = obtain(self, refs)
        if not calls:
            calls.append(len(refs))
            forget(shop.session, key="customer_id=1", yes=True)
        return found

    monkeypatch.setattr(Subjects, "obtain", forget_meanwhile)
    materialise(shop.session, "facts")
    assert calls
    assert "ada-planted@x" not in shop.offline("facts", "email")
    assert shop.online("facts", 1) == [(None, None, None)]


def test_after_a_kill_the_same_command_goes_on(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.work()

    def die(*_: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(forgetting, "_drop_online", die)
        with pytest.raises(KeyboardInterrupt):
            forget(shop.session, key="customer_id=1", yes=True)
    assert [line.state for line in list_forgotten(shop.session)] == ["begun"]
    assert shop.online("facts", 1) == [(None, None, None)]
    found = forget(shop.session, key="customer_id=1", yes=True)
    assert (found.state, found.n_online) == ("done", 1)
    assert [row.verb for row in list_audit(shop.session)].count("forget") == 1


def test_two_processes_that_forget_at_once(shop: Shop) -> None:
    shop.work()
    states: list[str] = []
    threads = [threading.Thread(target=lambda: states.append(forget(shop.session, key="customer_id=1", yes=True).state)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(states) == 3
    assert set(states) <= {"done", "stands"}
    assert [line.state for line in list_forgotten(shop.session)] == ["done"]


def test_a_subject_whose_key_is_a_personal_key(shop: Shop) -> None:
    people = Table("mails", "people.parquet", keys=("email",), event_time="at", zone="UTC", personal=("email", "age"))
    view = FeatureView(name="mails", source=people, features=["age", "spend"])
    with shop.session.change("apply", thing="mails") as change:
        register_view(shop.session, change, view, folder=shop.folder)
    materialise(shop.session, "mails")
    assert forget(shop.session, key=f"email={EMAILS[3]}", yes=True).n_online == 1
    assert shop.online("mails", EMAILS[3], EMAILS[2]) == [(None, None), (42.5, 2.0)]
    assert EMAILS[3] not in shop.offline("mails", "email")
    assert len(shop.offline("mails", "email")) == 4


def test_a_view_that_names_people_otherwise_is_told_and_forgotten_by_that(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "files", make_session(start=START), FACTS, BY_MAIL)
    shop.work()
    forget(shop.session, key="customer_id=1", yes=True)
    assert shop.online("by_mail", EMAILS[1]) == [(31.5, 5.0)]
    assert forget(shop.session, key=f"email={EMAILS[1]}", yes=True).n_online == 1
    assert shop.online("by_mail", EMAILS[1], EMAILS[2]) == [(None, None), (42.5, 2.0)]
    assert EMAILS[1] not in shop.offline("by_mail", "email")


def test_somebody_who_was_never_seen_may_be_forgotten_beforehand(shop: Shop) -> None:
    shop.work()
    assert not forget(shop.session, key="customer_id=99").seen
    assert forget(shop.session, key="customer_id=99", yes=True).state == "done"
    push(shop.session, "facts", [{"customer_id": 99, "email": "x@x", "age": 1.0, "spend": 1.0, "__event_at": "2026-03-04T09:00:00Z"}])
    assert shop.online("facts", 99) == [(None, None, None)]


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("customer=1", "Nothing is kept by the subject 'customer'"),
        ("email_address=x", "Nothing is kept by the subject"),
        ("customer_id", "a column and a value"),
        ("customer_id=", "a column and a value"),
        ("customer_id= ", "a column and a value"),
        ("=1", "a column and a value"),
        ("", "a column and a value"),
        ("customer_id=ada", "is a whole number"),
        ("customer_id=1.5", "is a whole number"),
    ],
)
def test_a_key_that_names_nobody_is_refused_without_its_value(shop: Shop, key: str, says: str) -> None:
    shop.work()
    with pytest.raises(InvalidInput, match=says) as error:
        forget(shop.session, key=key, yes=True)
    assert "ada" not in str(error.value)
    assert list_forgotten(shop.session) == []


def test_both_options_together_are_refused_and_only_owners_forget(shop: Shop) -> None:
    with pytest.raises(InvalidInput, match="--yes"):
        forget(shop.session, key="customer_id=1", yes=True, dry_run=True)
    with pytest.raises(PermissionDenied):
        forget(replace(shop.session, role=Role.EDITOR, admin=False), key="customer_id=1")
    with pytest.raises(InvalidInput, match="Nobody whom that names"):
        readmit(shop.session, key="customer_id=1")


def test_what_is_held_for_the_law_keeps_the_key(shop: Shop) -> None:
    shop.work()
    hold_thing(shop.session, "table/people", reason="case 12/26")
    assert forget(shop.session, key="customer_id=1").stays[0].why == "held for the law: case 12/26"
    with pytest.raises(Conflict, match="held for the law: case 12/26"):
        forget(shop.session, key="customer_id=1", yes=True)
    assert shop.online("facts", 1)[0][0] == "ada-pushed-planted@x"
    refused = list_audit(shop.session, outcome="refused")[0]
    assert (refused.verb, refused.detail["held"]) == ("forget", "table/people")
    lift_hold(shop.session, "table/people")
    assert forget(shop.session, key="customer_id=1", yes=True).state == "done"


def test_an_expression_that_a_value_does_not_fit_does_not_repeat_it(shop: Shop) -> None:
    view = FeatureView(name="cast", source=PEOPLE, features={"n": "CAST(email AS INTEGER)"})
    with shop.session.change("apply", thing="cast") as change:
        register_view(shop.session, change, view, folder=shop.folder)
    with pytest.raises(EndcapError) as error:
        materialise(shop.session, "cast")
    assert "planted" not in f"{error.value} {error.value.details}"


def test_training_sets_are_sealed_kept_and_handed_out_without_the_forgotten(shop: Shop, tmp_path: Path) -> None:
    shop.work()
    spine = Table("asked", "asked.parquet", keys=("customer_id",), event_time="at", zone="UTC", personal=("note",))
    at = pa.array([datetime(2026, 3, 4, 9)] * 2, pa.timestamp("us"))  # noqa: DTZ001 - plain times of the table
    pq.write_table(pa.table({"customer_id": [1, 2], "note": ["about ada", "about bob"], "at": at}), shop.folder / "asked.parquet")

    def build(name: str | None = None) -> Any:
        out = tmp_path / name if name else None
        return build_training_set(shop.session, spine, ["facts"], at="at", folder=shop.folder, full_names=True, out=out)

    kept = build()
    raw = shop.session.ports.tables.read(TRAINING_ROWS, partition={"workspace": "default", "training_set": kept.id})
    assert [raw.schema.field(name).type for name in ("note", "facts__email", "facts__age")] == [pa.large_binary()] * 3
    before = build("before.parquet")
    assert read_training_set(shop.session, before)["facts__email"].to_pylist() == ["ada-pushed-planted@x", "pushed-planted@x"]
    forget(shop.session, key="customer_id=1", yes=True)
    assert read_training_set(shop.session, build())["note"].to_pylist() == [None, "about bob"]
    after = build("after.parquet")
    assert read_training_set(shop.session, after)["facts__email"].to_pylist() == [None, "pushed-planted@x"]
    shop.session.tables.delete(TRAINING_ROWS, partition={"workspace": "default", "training_set": kept.id, "part": "00000"})
    again = build("again.parquet")  # joined anew, from sources that still have them
    rows = read_training_set(shop.session, again)
    assert (rows["note"].to_pylist(), rows["facts__email"].to_pylist()) == ([None, "about bob"], [None, "pushed-planted@x"])
    assert rows["customer_id"].to_pylist() == [1, 2]
    assert any(str(tmp_path / "again.parquet") in one.why for one in forget(shop.session, key="customer_id=2").stays)


def test_a_backup_from_before_does_not_bring_them_back(tmp_path: Path) -> None:
    session = make_session(tmp_path / "home", start=START)
    shop, place = Shop(tmp_path / "files", session), str(tmp_path / "vault")
    shop.work()
    before = backup(session, place)
    found = forget(session, key="customer_id=1", yes=True)
    assert any(before.id in one.thing for one in found.stays)
    assert list_backups(session, place, verify=True)[0].verified
    (tmp_path / "master.key").write_bytes((tmp_path / "home" / "master.key").read_bytes())
    session.ports.close()

    new = replace(make_session(tmp_path / "new", start=START), new_id=SystemIds())
    restore(new, place, backup=before.id)
    (tmp_path / "master.key").rename(tmp_path / "new" / "master.key")
    (tmp_path / "new" / "master.key").chmod(0o600)
    shop.session = new
    verify_audit(new)
    assert "ada-planted@x" not in shop.offline("facts", "email")
    assert "bob-planted@x" in shop.offline("facts", "email")
    assert [line.state for line in list_forgotten(new)] == ["begun"]
    materialise(new, "facts")
    assert shop.online("facts", 1) == [(None, None, None)]
    assert Subjects(new).count() == 4  # its key is on the shelf until somebody finishes
    assert forgetting.finish_forgetting(new) == 1
    assert Subjects(new).count() == 3
    assert forget(new, key="customer_id=1", yes=True).state == "done"
    new.ports.close()


def test_a_backup_from_before_does_not_bring_them_back_though_they_were_readmitted_since(tmp_path: Path) -> None:
    session = make_session(tmp_path / "home", start=START)
    shop, place = Shop(tmp_path / "files", session), str(tmp_path / "vault")
    shop.work()
    before = backup(session, place)
    forget(session, key="customer_id=1", yes=True)
    readmit(session, key="customer_id=1")
    after = backup(session, place)
    key = (tmp_path / "home" / "master.key").read_bytes()
    session.ports.close()
    for name, chosen, states in (("older", before, ["begun"]), ("newer", after, ["readmitted"])):
        new = replace(make_session(tmp_path / name, start=START), new_id=SystemIds())
        restore(new, place, backup=chosen.id)
        (tmp_path / name / "master.key").touch(mode=0o600)
        (tmp_path / name / "master.key").write_bytes(key)
        shop.session = new
        assert "ada-planted@x" not in shop.offline("facts", "email")
        assert "bob-planted@x" in shop.offline("facts", "email")
        assert [line.state for line in list_forgotten(new)] == states
        new.ports.close()


def test_a_place_of_backups_that_is_gone_is_told(tmp_path: Path) -> None:
    session = make_session(tmp_path / "home", start=START)
    shop, place = Shop(tmp_path / "files", session), tmp_path / "vault"
    shop.work()
    backup(session, str(place))
    place.rename(tmp_path / "elsewhere")
    found = forget(session, key="customer_id=1", yes=True)
    assert any("could not be written" in one.why for one in found.stays)
    (tmp_path / "elsewhere").rename(place)
    assert not any("could not be written" in one.why for one in forget(session, key="customer_id=1", yes=True).stays)
    assert (place / "notes-forgotten.json").exists()
    (record,) = session.records.find(FORGETTINGS, workspace="default")
    assert record.id in (place / "notes-forgotten.json").read_text()
    session.ports.close()


def test_nobody_is_taken_off_the_list_beside_backups(tmp_path: Path) -> None:
    """Whoever may write the place of backups alters the list, signs it with a key of theirs, puts an older one back, or takes it away."""
    session = make_session(tmp_path / "home", start=START)
    shop, place = Shop(tmp_path / "files", session), tmp_path / "vault"
    shop.work()
    sign_audit(session)
    early = backup(session, str(place))
    note = place / "notes-forgotten.json"
    forget(session, key="customer_id=1", yes=True)
    one = note.read_bytes()
    forget(session, key="customer_id=2", yes=True)
    late, two = backup(session, str(place)), note.read_bytes()

    def restoring(name: str, chosen: Backup, forgotten_key: str | None = None) -> Session:
        new = replace(make_session(tmp_path / name, start=START), new_id=SystemIds())
        try:
            restore(new, str(place), backup=chosen.id, forgotten_key=forgotten_key)
        finally:
            new.ports.close()
        return new

    said = msgspec.json.decode(two, type=ForgottenList)
    fewer = msgspec.structs.replace(said, workspaces={})
    readmitted = {"default": tuple(msgspec.structs.replace(one, state="readmitted") for one in said.workspaces["default"])}
    thief = make_session(tmp_path / "thief", start=START)
    sign_audit(thief)
    forged = msgspec.structs.replace(fewer, keys=tuple(list_audit_keys(thief)), signature="")
    forged = msgspec.structs.replace(forged, signature=open_key(thief).sign(forged, purpose="forgotten"))
    grafted = msgspec.structs.replace(forged, keys=(*said.keys, *forged.keys), signature="")
    grafted = msgspec.structs.replace(grafted, signature=open_key(thief).sign(grafted, purpose="forgotten"))
    thief.ports.close()
    changed = [fewer, msgspec.structs.replace(said, workspaces=readmitted), msgspec.structs.replace(fewer, keys=(), signature="")]
    for n, (body, chosen, match) in enumerate(
        [
            *((msgspec.json.encode(body), early, "does not bear the signature of the home's key") for body in changed),
            (b'{"workspaces":{}}', early, "does not bear the signature"),
            (msgspec.json.encode(forged), early, "none of the home's keys"),
            (msgspec.json.encode(grafted), early, "none of the home's keys"),
            (one, late, "stood there when the backup was made"),
            (None, late, "is gone"),
        ]
    ):
        note.unlink() if body is None else note.write_bytes(body)
        with pytest.raises(IntegrityBroken, match=match):
            restoring(f"refused{n}", chosen)
        if body not in (None, one):
            with pytest.raises(IntegrityBroken, match="The list of the forgotten"):
                backup(session, str(place))
            assert any("could not be written" in found.why for found in forget(session, key="customer_id=2", yes=True).stays)
    note.write_bytes(two)
    for name, chosen in (("early", early), ("late", late)):
        restoring(name, chosen)
        with_home = make_session(tmp_path / name, start=START)
        assert len(list_forgotten(with_home)) == 2, "without the private key on this machine"
        with_home.ports.close()

    rotate_audit_key(session)
    forget(session, key="customer_id=3", yes=True)
    assert restoring("handed over", early), "the new key was handed over to by one that the backup knows"
    rotate_audit_key(session, lost=True)
    readmit(session, key="customer_id=3")
    backup(session, str(place))
    with pytest.raises(IntegrityBroken, match="none of the home's keys"):
        restoring("lost", early)
    assert restoring("known", early, forgotten_key=list_audit_keys(session)[-1].public)
    session.ports.close()


@pytest.mark.parametrize("kept", ["memory", "folder"])
def test_after_a_lost_master_key_all_reads_as_missing_and_work_goes_on(tmp_path: Path, kept: str) -> None:
    session = make_session("memory://" if kept == "memory" else tmp_path / "home", start=START)
    if kept == "memory":
        session = replace(session, settings=msgspec.structs.replace(session.settings, master_key_file=tmp_path / "master.key"))
    shop = Shop(tmp_path / "files", session, *VIEWS)
    shop.work()
    record = shop.train()
    forget(session, key="customer_id=3", yes=True)
    (tmp_path / ("" if kept == "memory" else "home") / "master.key").unlink()
    forget_opened(session)
    rotate_keys(session, lost=True)

    assert set(shop.offline("facts", "email")) == {None}, "read before anything is written"
    assert 2.0 in shop.offline("facts", "spend"), "what is not personal stays"
    assert read_training_set(session, record)["email"].to_pylist() == [None] * 3
    assert {shop.online(view, 1)[0][0] for view in ("facts", "folded")} == {None}
    assert sample_online(session, find_view(session, "by_mail"), 10) == {"email": []}
    shop.write(n=1)
    for view in shop.views:
        materialise(session, view.name)
    push(session, "facts", [{"customer_id": 2, "email": "new-planted@x", "age": 43.0, "spend": 9.0, "__event_at": "2026-03-04T08:30:00Z"}])
    assert shop.online("facts", 2)[0][0] == "new-planted@x"
    assert "ada-planted@x" in shop.offline("facts", "email")

    planned = forget(session, key="customer_id=3")
    assert (planned.state, planned.seen) == ("planned", True), "the source brought them back: under the new pepper nobody knows them again"
    assert any("were lost with a master key" in one.why for one in planned.stays)
    assert [one.state for one in list_forgotten(session)] == ["lost"]
    assert forget(session, key="customer_id=3", yes=True).state == "done"
    assert sorted(one.state for one in list_forgotten(session)) == ["done", "lost"]
    assert len([row for row in list_audit(session, limit=1000) if row.verb == "begin-pepper"]) == 1
    verify_audit(session)
    assert planted(tmp_path / "home") == [] if kept == "folder" else True
    session.ports.close()


def test_a_reader_that_was_open_when_the_master_key_was_lost_finds_new_rows_within_minutes(tmp_path: Path) -> None:
    session = make_session(tmp_path / "home", start=START)
    shop = Shop(tmp_path / "files", session, BY_MAIL)
    materialise(session, "by_mail")
    reader = open_online(session, ["by_mail"])
    assert reader.read(["ada-planted@x"])[0].columns["spend"] == [5.0]
    (tmp_path / "home" / "master.key").unlink()
    forget_opened(session)
    rotate_keys(session, lost=True)
    assert reader.read(["ada-planted@x"])[0].columns["spend"] == [None]
    shop.write(n=1)
    materialise(session, "by_mail")
    assert isinstance(session.clock, ManualClock)
    session.clock.advance(KEPT_OPEN)
    assert reader.read(["ada-planted@x"])[0].columns["spend"] == [6.0]
    session.ports.close()

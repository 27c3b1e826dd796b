"""Contract suites: what every back end must do, said in tests.

A back end is tested by a module that derives a class from each suite and gives the fixture ``ports``, open and empty::

    class TestRecords(RecordStoreContract):
        pass

    @pytest.fixture
    def ports(tmp_path):
        ports = open_ports(tmp_path / "home")
        yield ports
        ports.close()
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from threading import Barrier, Event
from typing import Any

import msgspec
import pytest

from endcap.core.errors import Conflict, InvalidInput, NotFound
from endcap.storage.ports import Kind, Ports, RecordTransaction

N_THREADS = 8
HOSTILE_TEXTS = (
    "",
    " ",
    ".",
    "..",
    "a/b",
    "../../etc",
    "x=y",
    "a%2Fb",
    "50%",
    "a\\b",
    "ü",
    "u\u0308",
    "店",
    "🛒",
    "null",
    "None",
    "'; DROP TABLE record; --",
    '"',
    "a\nb",
    "a\x00b",
    "*",
    "?",
    "~",
    "-",
    "rows.parquet",
    "A",
    "a",
    "x" * 200,
)


class Thing(msgspec.Struct, frozen=True):
    """A record of the contract's own."""

    id: str
    group: str = "g"
    colour: str | None = None
    n: int = 0
    at: datetime | None = None
    tags: dict[str, list[float]] = {}


THINGS = Kind("thing", Thing, "id", (("group",), ("group", "colour")))
OTHERS = Kind("other", Thing, "id", (("group",),))
WS = "default"


def append(ports: Ports, *things: Thing, workspace: str = WS, kind: Kind[Thing] = THINGS) -> None:
    """Append things in one transaction."""
    with ports.records.transact() as tx:
        for thing in things:
            tx.append(kind, workspace=workspace, record=thing)


def find_ids(ports: Ports, workspace: str = WS, kind: Kind[Thing] = THINGS, **options: Any) -> list[str]:
    """The ids that a search gives, in its order."""
    return [thing.id for thing in ports.records.find(kind, workspace=workspace, **options)]


def put(ports: Ports, thing: Thing, *, expected_version: int) -> int:
    """Put one thing in a transaction of its own."""
    with ports.records.transact() as tx:
        return tx.put(THINGS, workspace=WS, record=thing, expected_version=expected_version)


def in_threads(work: Callable[[int], Any], *, n: int = N_THREADS) -> list[Any]:
    """Call ``work(0) ... work(n - 1)`` in as many threads, which begin together; their results in order, or the first error."""
    gate = Barrier(n)

    def begin(number: int) -> Any:
        gate.wait(timeout=60)
        return work(number)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(begin, range(n)))


class RecordStoreContract:
    """Records: reading, writing, finding, transactions, writers at the same time."""

    def test_what_was_never_written_is_not_there(self, ports: Ports) -> None:
        assert ports.records.get(THINGS, workspace=WS, id="a") is None
        assert ports.records.get_versioned(THINGS, workspace=WS, id="a") is None
        assert ports.records.find(THINGS, workspace=WS) == []
        assert ports.records.find(THINGS, workspace=WS, where={"group": "g"}) == []

    def test_a_record_comes_back_as_it_was(self, ports: Ports) -> None:
        things = [
            Thing("plain"),
            Thing("zone", at=datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC)),
            Thing("offset", at=datetime(2026, 3, 29, 1, 30, tzinfo=timezone(timedelta(hours=5, minutes=45)))),
            Thing("full", group="Grün 店 🛒", colour="", n=-(2**62), tags={"a": [0.1, -0.0, 1e-300], "": []}),
        ]
        append(ports, *things)
        assert ports.records.find(THINGS, workspace=WS) == things
        assert [ports.records.get(THINGS, workspace=WS, id=thing.id) for thing in things] == things

    @pytest.mark.parametrize("text", HOSTILE_TEXTS)
    def test_hostile_texts_are_ids_groups_and_workspaces_like_others(self, ports: Ports, text: str) -> None:
        append(ports, Thing(text, group=text), workspace=text)
        append(ports, Thing("neighbour", group="other"), workspace=text)
        assert ports.records.get(THINGS, workspace=text, id=text) == Thing(text, group=text)
        assert find_ids(ports, text, where={"group": text}) == [text]
        assert find_ids(ports) == []

    def test_hostile_ids_stay_apart(self, ports: Ports) -> None:
        append(ports, *(Thing(text, n=n) for n, text in enumerate(HOSTILE_TEXTS)))
        found = [ports.records.get(THINGS, workspace=WS, id=text) for text in HOSTILE_TEXTS]
        assert [thing.n if thing else None for thing in found] == list(range(len(HOSTILE_TEXTS)))

    @pytest.mark.parametrize("thing", [Thing("\ud800"), Thing("a", group="\udfff"), Thing("a", tags={"\ud800": []})])
    def test_a_text_that_is_not_unicode_is_refused_and_nothing_of_it_stays(self, ports: Ports, thing: Thing) -> None:
        with ports.records.transact() as tx:
            with pytest.raises(InvalidInput, match="not Unicode"):
                tx.append(THINGS, workspace=WS, record=thing)
            tx.append(THINGS, workspace=WS, record=Thing("b"))
        assert find_ids(ports) == ["b"]
        assert ports.records.get(THINGS, workspace=WS, id=thing.id) is None
        with pytest.raises(InvalidInput, match="not Unicode"):
            ports.records.find(THINGS, workspace=WS, where={"group": "\ud800"})

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_a_number_that_would_not_be_read_back_is_refused_when_it_is_written(self, ports: Ports, value: float) -> None:
        with ports.records.transact() as tx, pytest.raises(InvalidInput, match="not finite"):
            tx.append(THINGS, workspace=WS, record=Thing("a", tags={"figures": [1.0, value]}))
        assert find_ids(ports) == []

    def test_removed_records_are_nowhere_and_their_ids_are_free(self, ports: Ports) -> None:
        append(ports, *(Thing(name, group="g") for name in "abcd"))
        append(ports, Thing("a", group="g"), workspace="other")
        with ports.records.transact() as tx:
            assert tx.remove(THINGS, workspace=WS, ids=["a", "c", "never there", "a"]) == 2
            assert tx.remove(THINGS, workspace=WS, ids=[]) == 0
            assert (tx.get(THINGS, workspace=WS, id="a"), tx.count()) == (None, 3)
            assert [thing.id for thing in tx.find(THINGS, workspace=WS, where={"group": "g"})] == ["b", "d"]
            tx.append(THINGS, workspace=WS, record=Thing("c", group="g", n=7))
        assert find_ids(ports) == find_ids(ports, where={"group": "g"}) == ["b", "d", "c"]
        assert find_ids(ports, "other") == ["a"]
        assert ports.records.get_versioned(THINGS, workspace=WS, id="c") == (Thing("c", group="g", n=7), 1)
        with pytest.raises(NotFound):
            ports.records.find(THINGS, workspace=WS, after="a")

    def test_a_removal_that_is_taken_back_removed_nothing(self, ports: Ports) -> None:
        append(ports, Thing("a", group="g"))
        append(ports, Thing("b", group="h"))

        def remove_and_fail() -> None:
            with ports.records.transact() as tx:
                tx.remove(THINGS, workspace=WS, ids=["a"])
                tx.append(THINGS, workspace=WS, record=Thing("\ud800"))

        with pytest.raises(InvalidInput):
            remove_and_fail()
        assert find_ids(ports, where={"group": "g"}) == ["a"]
        assert find_ids(ports) == ["a", "b"]

    def test_appending_an_id_twice_is_refused_and_the_first_stays(self, ports: Ports) -> None:
        append(ports, Thing("a", n=1))
        with pytest.raises(Conflict, match="thing 'a' stands already"):
            append(ports, Thing("a", n=2))
        assert ports.records.get_versioned(THINGS, workspace=WS, id="a") == (Thing("a", n=1), 1)

    def test_a_put_asks_for_the_version_that_was_read(self, ports: Ports) -> None:
        assert put(ports, Thing("a", n=1), expected_version=0) == 1
        assert put(ports, Thing("a", n=2), expected_version=1) == 2
        for stale in (0, 1, 3, -1):
            with pytest.raises(Conflict, match="'a'"):
                put(ports, Thing("a", n=9), expected_version=stale)
        with pytest.raises(Conflict, match="changed since version 1"):
            put(ports, Thing("b"), expected_version=1)
        assert ports.records.get_versioned(THINGS, workspace=WS, id="a") == (Thing("a", n=2), 2)
        assert find_ids(ports) == ["a"]

    def test_records_are_found_in_the_order_they_were_first_appended(self, ports: Ports) -> None:
        for identity in ("c", "a", "b"):
            append(ports, Thing(identity))
        put(ports, Thing("c", n=5), expected_version=1)
        assert find_ids(ports) == ["c", "a", "b"]
        assert find_ids(ports, where={}) == ["c", "a", "b"]
        assert find_ids(ports, newest_first=True) == ["b", "a", "c"]
        assert find_ids(ports, where={"group": "g"}, newest_first=True) == ["b", "a", "c"]

    def test_a_limit_cuts_after_the_order(self, ports: Ports) -> None:
        append(ports, *(Thing(str(n)) for n in range(5)))
        assert find_ids(ports, limit=0) == []
        assert find_ids(ports, limit=2) == ["0", "1"]
        assert find_ids(ports, limit=2, newest_first=True) == ["4", "3"]
        assert find_ids(ports, limit=99) == ["0", "1", "2", "3", "4"]
        with pytest.raises(InvalidInput, match="limit is -1"):
            find_ids(ports, limit=-1)

    def test_pages_follow_one_another_in_both_orders(self, ports: Ports) -> None:
        append(ports, *(Thing(str(n), group="even" if n % 2 == 0 else "odd") for n in range(7)))
        put(ports, Thing("2", group="even", n=1), expected_version=1)
        assert find_ids(ports, after="2") == ["3", "4", "5", "6"]
        assert find_ids(ports, after="2", limit=2) == ["3", "4"]
        assert find_ids(ports, after="2", newest_first=True) == ["1", "0"]
        assert find_ids(ports, where={"group": "even"}, after="3") == ["4", "6"]
        assert find_ids(ports, where={"group": "even"}, after="3", newest_first=True, limit=1) == ["2"]
        assert find_ids(ports, after="6") == find_ids(ports, after="0", newest_first=True) == []
        with ports.records.transact() as tx:
            tx.append(THINGS, workspace=WS, record=Thing("7"))
            assert [thing.id for thing in tx.find(THINGS, workspace=WS, after="5")] == ["6", "7"]
            assert [thing.id for thing in tx.find(THINGS, workspace=WS, after="7", newest_first=True, limit=1)] == ["6"]

    def test_a_page_after_what_is_not_there_is_refused(self, ports: Ports) -> None:
        append(ports, Thing("a"))
        append(ports, Thing("b"), workspace="other")
        for missing in ("b", "", "a\x00"):
            with pytest.raises(NotFound, match=r"no thing .* after which"):
                find_ids(ports, after=missing)

    def test_a_search_that_no_index_answers_is_refused(self, ports: Ports) -> None:
        append(ports, Thing("a"))
        for where in ({"n": 0}, {"colour": None}, {"group": "g", "n": 0}):
            with pytest.raises(InvalidInput, match=r"not found by .* Indexes: \['group', 'group and colour'\]"):
                ports.records.find(THINGS, workspace=WS, where=where)

    def test_a_compound_index_is_asked_in_any_order(self, ports: Ports) -> None:
        append(ports, Thing("a", group="x", colour="y"), Thing("b", group="y", colour="x"))
        assert find_ids(ports, where={"colour": "y", "group": "x"}) == ["a"]

    def test_values_of_a_compound_index_are_never_confused(self, ports: Ports) -> None:
        pairs: list[tuple[str, str | None]] = [
            ("a", "b,c"), ("a,b", "c"), ('a","b', "c"), ("a", 'b","c'), ("a", None), ("a", "None"), ("a", "null"), ("a", ""),
            ("", "a"), ("a+b", "c"), ("a", "b+c"), ("a\\", "b"), ("a", "\\b"), ("a\x00", "b"), ("a", "\x00b"), ("[]", "[]"),
        ]  # fmt: skip
        append(ports, *(Thing(str(n), group=group, colour=colour) for n, (group, colour) in enumerate(pairs)))
        for n, (group, colour) in enumerate(pairs):
            assert find_ids(ports, where={"group": group, "colour": colour}) == [str(n)]

    def test_a_put_files_the_record_anew(self, ports: Ports) -> None:
        append(ports, Thing("a", group="old", colour="red"))
        put(ports, Thing("a", group="new", colour="red"), expected_version=1)
        assert find_ids(ports, where={"group": "old"}) == []
        assert find_ids(ports, where={"group": "new"}) == ["a"]
        assert find_ids(ports, where={"group": "new", "colour": "red"}) == ["a"]
        assert find_ids(ports) == ["a"]

    def test_workspaces_and_kinds_do_not_see_one_another(self, ports: Ports) -> None:
        append(ports, Thing("a", n=1))
        append(ports, Thing("a", n=2), workspace="other")
        append(ports, Thing("a", n=3), kind=OTHERS)
        assert ports.records.get(THINGS, workspace=WS, id="a") == Thing("a", n=1)
        assert ports.records.find(THINGS, workspace="other", where={"group": "g"}) == [Thing("a", n=2)]
        assert ports.records.find(OTHERS, workspace=WS) == [Thing("a", n=3)]
        assert ports.records.find(OTHERS, workspace="other") == []

    def test_a_transaction_that_raises_leaves_nothing(self, ports: Ports) -> None:
        append(ports, Thing("a", n=1))

        def fail_midway() -> None:
            with ports.records.transact() as tx:
                tx.append(THINGS, workspace=WS, record=Thing("b"))
                tx.put(THINGS, workspace=WS, record=Thing("a", group="new", n=2), expected_version=1)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail_midway()
        assert ports.records.get_versioned(THINGS, workspace=WS, id="a") == (Thing("a", n=1), 1)
        assert find_ids(ports, where={"group": "g"}) == ["a"]
        assert find_ids(ports, where={"group": "new"}) == []
        append(ports, Thing("b"))
        assert find_ids(ports) == ["a", "b"]

    def test_a_refusal_that_is_caught_leaves_the_rest_of_its_transaction(self, ports: Ports) -> None:
        append(ports, Thing("a"))
        with ports.records.transact() as tx:
            tx.append(THINGS, workspace=WS, record=Thing("b"))
            with pytest.raises(Conflict):
                tx.append(THINGS, workspace=WS, record=Thing("a", n=9, group="new"))
            tx.append(THINGS, workspace=WS, record=Thing("c"))
        assert find_ids(ports) == ["a", "b", "c"]
        assert find_ids(ports, where={"group": "new"}) == []

    def test_a_transaction_sees_its_own_writes(self, ports: Ports) -> None:
        append(ports, Thing("a", n=1), Thing("b"))
        with ports.records.transact() as tx:
            tx.put(THINGS, workspace=WS, record=Thing("a", group="new", n=2), expected_version=1)
            tx.append(THINGS, workspace=WS, record=Thing("c"))
            for reader in (tx, ports.records):
                assert reader.get_versioned(THINGS, workspace=WS, id="a") == (Thing("a", group="new", n=2), 2)
                assert [thing.id for thing in reader.find(THINGS, workspace=WS)] == ["a", "b", "c"]
                assert [thing.id for thing in reader.find(THINGS, workspace=WS, where={"group": "g"}, newest_first=True)] == ["c", "b"]
            assert tx.put(THINGS, workspace=WS, record=Thing("a", n=3), expected_version=2) == 3

    def test_others_see_nothing_of_an_open_transaction_and_do_not_wait_for_it(self, ports: Ports) -> None:
        append(ports, Thing("a", n=1))
        with ThreadPoolExecutor(1) as pool:
            with ports.records.transact() as tx:
                tx.put(THINGS, workspace=WS, record=Thing("a", n=2), expected_version=1)
                tx.append(THINGS, workspace=WS, record=Thing("b"))
                assert pool.submit(find_ids, ports).result(timeout=20) == ["a"]
                assert pool.submit(ports.records.get, THINGS, workspace=WS, id="a").result(timeout=20) == Thing("a", n=1)
            assert pool.submit(find_ids, ports).result(timeout=20) == ["a", "b"]

    def test_a_transaction_inside_another_is_refused_and_the_outer_goes_on(self, ports: Ports) -> None:
        with ports.records.transact() as tx:
            tx.append(THINGS, workspace=WS, record=Thing("a"))
            with pytest.raises(InvalidInput, match="transaction open already"), ports.records.transact():
                raise AssertionError("never entered")
            tx.append(THINGS, workspace=WS, record=Thing("b"))
        assert find_ids(ports) == ["a", "b"]

    @pytest.mark.parametrize("fails", [False, True])
    def test_a_transaction_takes_nothing_after_its_end(self, ports: Ports, fails: bool) -> None:
        kept: list[RecordTransaction] = []
        try:
            with ports.records.transact() as tx:
                kept.append(tx)
                if fails:
                    raise KeyError("x")
        except KeyError:
            pass
        with pytest.raises(InvalidInput, match="has ended"):
            kept[0].append(THINGS, workspace=WS, record=Thing("a"))
        with pytest.raises(InvalidInput, match="has ended"):
            kept[0].find(THINGS, workspace=WS)
        assert find_ids(ports) == []

    def test_of_many_who_append_one_id_exactly_one_wins(self, ports: Ports) -> None:
        def claim(number: int) -> bool:
            try:
                append(ports, Thing("a", n=number))
            except Conflict:
                return False
            return True

        won = in_threads(claim)
        assert won.count(True) == 1
        assert ports.records.find(THINGS, workspace=WS) == [Thing("a", n=won.index(True))]

    def test_no_update_is_lost_when_many_count_up(self, ports: Ports) -> None:
        append(ports, Thing("count"))
        n_each = 10

        def count(_: int) -> None:
            done = 0
            while done < n_each:
                found = ports.records.get_versioned(THINGS, workspace=WS, id="count")
                assert found is not None
                try:
                    put(ports, msgspec.structs.replace(found[0], n=found[0].n + 1), expected_version=found[1])
                except Conflict:
                    continue
                done += 1

        in_threads(count)
        expected = N_THREADS * n_each
        assert ports.records.get_versioned(THINGS, workspace=WS, id="count") == (Thing("count", n=expected), expected + 1)

    def test_a_second_writer_waits_for_the_first_and_sees_what_it_wrote(self, ports: Ports) -> None:
        def find_in_transaction() -> list[str]:
            with ports.records.transact() as tx:
                return [thing.id for thing in tx.find(THINGS, workspace=WS)]

        with ThreadPoolExecutor(1) as pool:
            with ports.records.transact() as tx:
                second = pool.submit(find_in_transaction)
                with pytest.raises(TimeoutError):
                    second.result(timeout=0.1)
                tx.append(THINGS, workspace=WS, record=Thing("a"))
            assert second.result(timeout=20) == ["a"]

    def test_writers_take_turns_so_that_reading_inside_a_transaction_is_safe(self, ports: Ports) -> None:
        append(ports, Thing("count"))

        def count(_: int) -> None:
            for _repeat in range(5):
                with ports.records.transact() as tx:
                    found = tx.get_versioned(THINGS, workspace=WS, id="count")
                    assert found is not None
                    tx.put(THINGS, workspace=WS, record=Thing("count", n=found[0].n + 1), expected_version=found[1])

        in_threads(count)
        assert ports.records.get(THINGS, workspace=WS, id="count") == Thing("count", n=N_THREADS * 5)

    def test_a_reader_sees_whole_transactions_only(self, ports: Ports) -> None:
        done = Event()

        def work(number: int) -> list[int]:
            if number == 0:
                try:
                    for n in range(40):
                        append(ports, Thing(f"{n}-left"), Thing(f"{n}-right"))
                finally:
                    done.set()
                return []
            seen = []
            while not done.is_set():
                seen.append(len(ports.records.find(THINGS, workspace=WS, where={"group": "g"})))
            return seen

        seen = [count for counts in in_threads(work, n=3) for count in counts]
        assert seen
        assert all(count % 2 == 0 for count in seen)

"""Contract suite of filings: records outlive the declarations that wrote them. Used as the suites of ``endcap.testing.stores`` are."""

from __future__ import annotations

import pytest

from endcap.storage.frozen import FiledRecord
from endcap.storage.ports import Kind, Ports
from endcap.testing.stores import OTHERS, THINGS, WS, Thing, append, find_ids, in_threads

OLDER_THINGS = Kind("thing", Thing, "id", (("group",),))
"""Things as an older Endcap would file them."""
NEWER_THINGS = Kind("thing", Thing, "id", (("group", "colour"), ("n",)))
"""Things as a newer one would: an index was added, and another dropped."""


class FilingContract:
    """Records that were written when their kind declared other indexes are found as if it had declared them always."""

    @pytest.mark.parametrize("n", [1, 3000])
    def test_what_an_older_declaration_wrote_is_found_under_new_indexes(self, ports: Ports, n: int) -> None:
        append(ports, *(Thing(str(k), colour="red" if k % 2 else "blue") for k in range(n)), kind=OLDER_THINGS)
        append(ports, Thing("b", colour="red"), workspace="other", kind=OLDER_THINGS)
        append(ports, Thing("c"), kind=OTHERS)
        red = [str(k) for k in range(1, n, 2)]
        assert find_ids(ports, where={"group": "g", "colour": "red"}) == red
        assert find_ids(ports, where={"group": "g", "colour": "red"}, newest_first=True, limit=2) == red[::-1][:2]
        assert find_ids(ports, where={"group": "g", "colour": "blue"}, after="0") == [str(k) for k in range(2, n, 2)]
        assert find_ids(ports, "other", where={"group": "g", "colour": "red"}) == ["b"]
        assert find_ids(ports, where={"group": "g"}) == find_ids(ports) == [str(k) for k in range(n)]
        assert find_ids(ports, kind=OTHERS, where={"group": "g"}) == ["c"]

    def test_a_kind_without_records_is_found_empty_whatever_it_declares(self, ports: Ports) -> None:
        assert find_ids(ports, kind=NEWER_THINGS, where={"n": 0}) == find_ids(ports, kind=OLDER_THINGS, where={"group": "g"}) == []
        append(ports, Thing("a"), kind=NEWER_THINGS)
        assert find_ids(ports, kind=NEWER_THINGS, where={"n": 0}) == find_ids(ports, where={"group": "g"}) == ["a"]

    def test_old_and_new_declarations_may_write_in_turns(self, ports: Ports) -> None:
        where = {"group": "g", "colour": "red"}
        for n in range(3):
            append(ports, Thing(f"old-{n}", colour="red"), kind=OLDER_THINGS)
            append(ports, Thing(f"new-{n}", colour="red"))
            written = [f"{age}-{k}" for k in range(n + 1) for age in ("old", "new")]
            assert find_ids(ports, where=where) == find_ids(ports, kind=OLDER_THINGS, where={"group": "g"}) == written

    def test_an_index_that_was_dropped_for_a_while_answers_again(self, ports: Ports) -> None:
        append(ports, Thing("a"), Thing("b"), Thing("c"))
        with ports.records.transact() as tx:
            tx.put(NEWER_THINGS, workspace=WS, record=Thing("b", group="new", n=1), expected_version=1)
            tx.append(NEWER_THINGS, workspace=WS, record=Thing("d", n=1))
        assert find_ids(ports, kind=NEWER_THINGS, where={"n": 1}) == ["b", "d"]
        assert find_ids(ports, kind=NEWER_THINGS, where={"n": 0}) == ["a", "c"]
        assert find_ids(ports, where={"group": "g"}) == ["a", "c", "d"]
        assert find_ids(ports, where={"group": "new"}) == ["b"]

    def test_a_record_that_an_older_declaration_replaced_is_found_as_it_is_now(self, ports: Ports) -> None:
        append(ports, Thing("a", colour="red"), Thing("b", colour="red"))
        with ports.records.transact() as tx:
            tx.put(OLDER_THINGS, workspace=WS, record=Thing("a", colour="blue"), expected_version=1)
        assert find_ids(ports, where={"group": "g", "colour": "blue"}) == ["a"]
        assert find_ids(ports, where={"group": "g", "colour": "red"}) == ["b"]

    def test_a_transaction_finds_what_it_wrote_by_either_declaration(self, ports: Ports) -> None:
        append(ports, Thing("a"), kind=OLDER_THINGS)
        where = {"group": "g", "colour": None}
        with ports.records.transact() as tx:
            for n, kind in enumerate((OLDER_THINGS, THINGS, OLDER_THINGS)):
                tx.append(kind, workspace=WS, record=Thing(str(n)))
                for reader in (ports.records, tx):
                    assert [thing.id for thing in reader.find(THINGS, workspace=WS, where=where)] == ["a", *map(str, range(n + 1))]
        assert find_ids(ports, where=where) == ["a", "0", "1", "2"]

    def test_what_a_transaction_that_raised_had_filed_is_filed_again(self, ports: Ports) -> None:
        append(ports, Thing("a"), kind=OLDER_THINGS)

        def search_and_fail() -> None:
            with ports.records.transact() as tx:
                tx.append(OLDER_THINGS, workspace=WS, record=Thing("b"))
                assert len(tx.find(THINGS, workspace=WS, where={"group": "g", "colour": None})) == 2
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            search_and_fail()
        assert find_ids(ports, where={"group": "g", "colour": None}) == ["a"]

    def test_many_who_search_at_once_while_an_older_declaration_writes_miss_nothing(self, ports: Ports) -> None:
        append(ports, *(Thing(f"first-{n}") for n in range(50)), kind=OLDER_THINGS)

        def work(number: int) -> None:
            for n in range(5):
                if number == 0:
                    append(ports, Thing(f"old-{n}"), kind=OLDER_THINGS)
                assert len(find_ids(ports, where={"group": "g", "colour": None})) >= 50 + (n + 1 if number == 0 else 0)

        in_threads(work, n=4)
        assert len(find_ids(ports, where={"group": "g", "colour": None})) == 55

    def test_what_an_older_backup_filed_is_filed_anew(self, ports: Ports) -> None:
        append(ports, Thing("a", colour="red"))
        thing = Thing("b", colour="red")
        with ports.records.transact() as tx:
            tx.load([FiledRecord("thing", WS, "b", 3, OLDER_THINGS.encode(thing), OLDER_THINGS.keys_of(thing))])
        assert find_ids(ports, where={"group": "g", "colour": "red"}) == find_ids(ports, where={"group": "g"}) == ["a", "b"]
        assert ports.records.get_versioned(THINGS, workspace=WS, id="b") == (thing, 3)

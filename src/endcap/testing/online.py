"""The contract suite of online stores: what every one of them must do, said in tests.

A back end is tested by a module that derives a class from the suite and gives the fixture ``online``, open and empty::

    class TestOnline(OnlineStoreContract):
        pass

    @pytest.fixture
    def online(tmp_path):
        ports = open_ports(tmp_path / "home")
        yield ports.online
        ports.close()
"""

from __future__ import annotations

from threading import Event

import pytest

from endcap.core.errors import InvalidInput
from endcap.storage.ports import OnlineStore, pack_stamp
from endcap.testing.stores import HOSTILE_TEXTS, in_threads

SPACE = "default/user_7d@0123456789ab"
HOSTILE_KEYS = (b"", b"\x00", b"\x00\x00", b"\xff" * 8, b"a\r\nb", b"$3\r\nabc\r\n", "Grün 店 🛒".encode(), b"'; DROP TABLE rows_61; --", b"k" * 2048)
# In the order of time. Beyond 2 to the 53rd a double tells neighbours apart no more, and negative ones come first.
STAMPS = (
    (-(2**63), 0), (-62_135_596_800_000_000, 5), (-1, 2**62), (0, -1), (0, 0), (0, 1), (1_767_600_000_000_000, 0),
    (1_767_600_000_000_000, 1), (2**53 + 1, 0), (2**53 + 2, -5), (2**62, 2**53 + 1), (2**62, 2**53 + 2), (2**63 - 1, 2**63 - 1),
)  # fmt: skip


def row(text: str = "", *, event_us: int = 0, known_us: int = 0) -> bytes:
    """A row that says something."""
    return pack_stamp(event_us, known_us) + text.encode()


def number_keys(n: int) -> list[bytes]:
    return [number.to_bytes(8, "big") for number in range(n)]


class OnlineStoreContract:
    """Online rows: the newest stands, a batch is whole, and a look sees one instant."""

    def test_what_was_never_written_is_not_there(self, online: OnlineStore) -> None:
        assert online.read([(SPACE, [b"a", b"b"]), ("other", [b"a"])]) == [[None, None], [None]]
        assert online.read([(SPACE, [b"a"])]) == [[None]]
        assert online.read([]) == []
        assert online.read([(SPACE, []), ("other", [])]) == [[], []]
        assert (online.count(SPACE), online.sample(SPACE, 5), online.spaces()) == (0, [], [])
        online.drop(SPACE)
        assert online.write(SPACE, keys=[], rows=[]) == 0
        assert online.spaces() == []

    def test_rows_come_back_as_they_were_in_the_order_they_were_asked_for(self, online: OnlineStore) -> None:
        rows = [row("a", event_us=5), row("b" * 1000), row("", known_us=-7)]
        assert online.write(SPACE, keys=[b"a", b"b", b"c"], rows=rows) == 3
        assert online.write("other", keys=[b"a"], rows=[row("elsewhere")]) == 1
        assert online.read([(SPACE, [b"c", b"x", b"a", b"c", b"b"])]) == [[rows[2], None, rows[0], rows[2], rows[1]]]
        asked = [("other", [b"a"]), (SPACE, [b"b"]), ("nowhere", [b"a", b"b"]), (SPACE, []), (SPACE, [b"a", b"b"])]
        assert online.read(asked) == [[row("elsewhere")], [rows[1]], [None, None], [], [rows[0], rows[1]]]
        assert online.read([(SPACE, [b"b"])]) == [[rows[1]]]
        assert (online.count(SPACE), online.count("other"), online.spaces()) == (3, 1, sorted([SPACE, "other"]))

    def test_an_older_row_is_passed_over_and_one_as_old_replaces(self, online: OnlineStore) -> None:
        assert online.write(SPACE, keys=[b"a", b"b"], rows=[row("first", event_us=5), row("first", event_us=5, known_us=5)]) == 2
        assert online.write(SPACE, keys=[b"a", b"b"], rows=[row("older", event_us=4), row("known before", event_us=5, known_us=4)]) == 0
        assert online.read([(SPACE, [b"a", b"b"])]) == [[row("first", event_us=5), row("first", event_us=5, known_us=5)]]
        assert online.write(SPACE, keys=[b"a", b"b", b"c"], rows=[row("again", event_us=5), row("older"), row("new")]) == 2
        assert online.read([(SPACE, [b"a", b"b", b"c"])]) == [[row("again", event_us=5), row("first", event_us=5, known_us=5), row("new")]]
        assert online.write(SPACE, keys=[b"a"], rows=[row("again", event_us=5)]) == 1
        assert online.count(SPACE) == 3

    def test_removed_rows_are_not_there_whatever_their_stamps(self, online: OnlineStore) -> None:
        keys = number_keys(2500)
        online.write(SPACE, keys=keys, rows=[row("x", event_us=2**62)] * len(keys))
        online.write("other", keys=keys[:1], rows=[row("other")])
        assert online.remove("nowhere", keys[:2]) == 0
        assert online.remove(SPACE, []) == 0
        assert online.remove(SPACE, [*keys[:2200], b"never there", keys[0]]) == 2200
        assert (online.count(SPACE), online.count("other"), online.get(SPACE, keys[0])) == (300, 1, None)
        assert online.write(SPACE, keys=keys[:1], rows=[row("older than what stood")]) == 1
        assert online.remove(SPACE, keys) == 301
        assert (online.count(SPACE), online.sample(SPACE, 5), online.spaces()) == (0, [], ["other"])

    def test_stamps_are_told_apart_to_the_last_bit(self, online: OnlineStore) -> None:
        for place, (event_us, known_us) in enumerate(STAMPS):
            newest = row(str(place), event_us=event_us, known_us=known_us)
            assert online.write(SPACE, keys=[b"a"], rows=[newest]) == 1
            for older in STAMPS[:place]:
                assert online.write(SPACE, keys=[b"a"], rows=[row("older", event_us=older[0], known_us=older[1])]) == 0
            assert online.read([(SPACE, [b"a"])]) == [[newest]]

    def test_of_a_key_that_comes_twice_in_a_batch_the_newest_stands_and_of_equals_the_last(self, online: OnlineStore) -> None:
        keys = [b"b", b"a", b"b", b"a", b"b", b"a"]
        rows = [row("1", event_us=2), row("2", event_us=1), row("3", event_us=2), row("4", event_us=3), row("5", event_us=1), row("6", event_us=2)]
        assert online.write(SPACE, keys=keys, rows=rows) == 4
        assert online.read([(SPACE, [b"a", b"b"])]) == [[row("4", event_us=3), row("3", event_us=2)]]

    @pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 2000, 2001, 5003])
    def test_batches_and_looks_of_any_size(self, online: OnlineStore, n: int) -> None:
        keys = number_keys(n)
        first, second = [row(f"first {place}") for place in range(n)], [row(f"second {place}", event_us=place % 2) for place in range(n)]
        assert online.write(SPACE, keys=keys[::-1], rows=first[::-1]) == n
        assert online.write(SPACE, keys=keys, rows=second) == n
        assert online.write(SPACE, keys=keys, rows=first) == sum(place % 2 == 0 for place in range(n))
        expected = [second[place] if place % 2 else first[place] for place in range(n)]
        assert online.read([(SPACE, keys), (SPACE, keys[-1:])]) == [expected, expected[-1:]]
        assert online.read([(SPACE, [*keys, b"none", *keys])]) == [[*expected, None, *expected]]
        assert online.count(SPACE) == n

    def test_hostile_keys_and_spaces_are_like_others(self, online: OnlineStore) -> None:
        spaces = [*HOSTILE_TEXTS, "user", "USER", "rows_61", "sqlite_master", "{a}b", "endcap:online"]
        for place, space in enumerate(spaces):
            assert online.write(space, keys=HOSTILE_KEYS, rows=[row(f"{place} {number}") for number in range(len(HOSTILE_KEYS))]) == len(HOSTILE_KEYS)
        for place, space in enumerate(spaces):
            assert online.read([(space, HOSTILE_KEYS)]) == [[row(f"{place} {number}") for number in range(len(HOSTILE_KEYS))]]
        assert online.spaces() == sorted(spaces)
        for space in spaces[::2]:
            online.drop(space)
        assert online.spaces() == sorted(spaces[1::2])

    def test_a_row_may_be_large_and_hold_any_bytes(self, online: OnlineStore) -> None:
        large = row() + bytes(range(256)) * 8192
        assert online.write(SPACE, keys=[b"a", b"b"], rows=[large, row("small")]) == 2
        assert online.read([(SPACE, [b"b", b"a"])]) == [[row("small"), large]]
        assert dict(online.sample(SPACE, 2)) == {b"a": large, b"b": row("small")}

    @pytest.mark.parametrize(
        ("space", "keys", "rows", "says"),
        [
            (SPACE, [b"a", b"b"], [row("new")], "2 keys and 1 rows"),
            (SPACE, [b"a", b"b"], [row("new"), b"x" * 15], "has 15 bytes; the first 16 are its stamp"),
            (SPACE, [b"a", b"k" * 2049], [row("new")] * 2, "2,049 bytes"),
            ("s" * 401, [b"a"], [row("new")], "401 bytes"),
            ("\ud800", [b"a"], [row("new")], "not Unicode"),
        ],
    )
    def test_a_batch_that_is_none_is_refused_and_nothing_of_it_stays(
        self, online: OnlineStore, space: str, keys: list[bytes], rows: list[bytes], says: str
    ) -> None:
        online.write(SPACE, keys=[b"a"], rows=[row("old")])
        with pytest.raises(InvalidInput, match=says):
            online.write(space, keys=keys, rows=rows)
        assert online.read([(SPACE, [b"a", b"b"])]) == [[row("old"), None]]
        assert (online.spaces(), online.count(SPACE)) == ([SPACE], 1)

    def test_a_sample_draws_each_key_at_most_once_and_every_key_some_time(self, online: OnlineStore) -> None:
        keys = number_keys(40)
        rows = [row(str(place)) for place in range(40)]
        online.write(SPACE, keys=keys, rows=rows)
        standing = dict(zip(keys, rows, strict=True))
        drawn: set[bytes] = set()
        for _ in range(60):
            found = online.sample(SPACE, 10)
            assert len(found) == len(dict(found)) == 10
            assert all(standing[key] == value for key, value in found)
            drawn |= set(dict(found))
        assert drawn == set(keys)  # that one is never drawn in 600 has a chance below one in a million
        assert dict(online.sample(SPACE, 1000)) == standing
        assert online.sample(SPACE, 0) == []
        with pytest.raises(InvalidInput, match="limit is -1"):
            online.sample(SPACE, -1)

    def test_a_dropped_space_is_forgotten_and_may_be_written_again(self, online: OnlineStore) -> None:
        for space in (SPACE, "other"):
            online.write(space, keys=[b"a", b"b"], rows=[row("old", event_us=9)] * 2)
        for _ in range(2):
            online.drop(SPACE)
            assert (online.read([(SPACE, [b"a"])]), online.read([(SPACE, [b"a", b"b"])])) == ([[None]], [[None, None]])
            assert (online.count(SPACE), online.sample(SPACE, 3), online.spaces()) == (0, [], ["other"])
        assert online.write(SPACE, keys=[b"a"], rows=[row("new")]) == 1
        assert online.read([(SPACE, [b"a", b"b"]), ("other", [b"a"])]) == [[row("new"), None], [row("old", event_us=9)]]

    def test_the_newest_of_many_writers_stands(self, online: OnlineStore) -> None:
        keys, n_threads, n_each = number_keys(50), 4, 12

        def write(number: int) -> int:
            steps = range(number, n_threads * n_each, n_threads)
            return sum(online.write(SPACE, keys=keys, rows=[row(str(step), event_us=step)] * 50) for step in steps)

        n_written = in_threads(write, n=n_threads)
        newest = n_threads * n_each - 1
        assert online.read([(SPACE, keys)]) == [[row(str(newest), event_us=newest)] * 50]
        assert 50 * n_each <= sum(n_written) <= 50 * n_threads * n_each

    def test_a_look_sees_batches_whole_and_one_instant_of_all_spaces(self, online: OnlineStore) -> None:
        keys, done = number_keys(300), Event()

        def write(step: int) -> None:
            for space in ("first", "second"):
                online.write(space, keys=keys, rows=[row(str(step), event_us=step)] * 300)

        def work(number: int) -> int:
            if number == 0:
                try:
                    for step in range(1, 40):
                        write(step)
                finally:
                    done.set()
                return 0
            n_looks = 0
            while not done.is_set() or not n_looks:
                one, other, again = online.read([("first", keys), ("second", keys), ("first", keys[:1])])
                assert len(set(one)) == len(set(other)) == 1
                a, b = (int((rows[0] or row("0"))[16:]) for rows in (one, other))
                assert b <= a <= b + 1
                assert again == one[:1]
                n_looks += 1
            return n_looks

        write(0)
        assert min(in_threads(work, n=3)[1:]) > 0

    def test_looking_while_a_space_is_dropped_and_written_again_never_fails(self, online: OnlineStore) -> None:
        keys, done = number_keys(20), Event()

        def work(number: int) -> None:
            if number == 0:
                try:
                    for step in range(40):
                        online.write(SPACE, keys=keys, rows=[row(str(step))] * 20)
                        online.drop(SPACE)
                finally:
                    done.set()
            while not done.is_set():
                (many,), (one,) = online.read([(SPACE, keys)]), online.read([(SPACE, keys[:1])])
                assert len(set(many)) == len(set(one)) == 1
                assert online.count(SPACE) in (0, 20)
                assert len(online.sample(SPACE, 3)) in (0, 3)

        in_threads(work, n=3)

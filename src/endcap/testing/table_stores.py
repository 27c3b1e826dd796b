"""Contract suites of table stores; see ``endcap.testing.stores`` for how a back end is tested by them."""

from __future__ import annotations

from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from endcap.core.errors import InvalidInput, NotFound
from endcap.storage.ports import Ports
from endcap.testing.stores import HOSTILE_TEXTS, in_threads


class TableStoreContract:
    """Tables: datasets in partitions, each replaced whole."""

    def test_sizes_are_those_at_rest_and_found_by_part(self, ports: Ports) -> None:
        for model in ("m", "n"):
            ports.tables.write("sales", partition={"model": model, "day": "a/b=1"}, table=pa.table({"a": list(range(1000))}))
        ports.tables.write("stores", partition={"model": "m"}, table=pa.table({"a": [1]}))
        found = {(dataset, *sorted(partition.items())): n for dataset, partition, n in ports.tables.list_sizes(partition={"model": "m"})}
        assert set(found) == {("sales", ("day", "a/b=1"), ("model", "m")), ("stores", ("model", "m"))}
        assert found["stores", ("model", "m")] == ports.tables.measure("stores", partition={"model": "m"}) > 100
        assert len(list(ports.tables.list_sizes())) == 3
        before = ports.tables.measure("sales", partition={"day": "a/b=1", "model": "n"})
        ports.tables.write("sales", partition={"model": "n", "day": "a/b=1"}, table=pa.table({"a": list(range(100_000))}))
        assert ports.tables.measure("sales", partition={"model": "n", "day": "a/b=1"}) > before
        ports.tables.delete("sales", partition={"model": "n", "day": "a/b=1"})
        assert ports.tables.measure("sales", partition={"model": "n", "day": "a/b=1"}) == 0
        assert len(list(ports.tables.list_sizes())) == 2

    def test_a_table_comes_back_with_its_types(self, ports: Ports) -> None:
        table = pa.table(
            {
                "b": pa.array([True, None, False]),
                "i": pa.array([1, None, -3], pa.int32()),
                "f": pa.array([0.5, None, float("inf")]),
                "s": pa.array(["", None, "ü 店"]),
                "d": pa.array([0, None, 20_000], pa.int32()).cast(pa.date32()),
                "t": pa.array([0, None, 1], pa.timestamp("us", tz="UTC")),
                "k": pa.array(["x", None, "x"]).dictionary_encode(),
                "l": pa.array([[1.0], None, []], pa.list_(pa.float32())),
            }
        )
        assert ports.tables.write("sales", partition={"day": "1"}, table=table) == 3
        read = ports.tables.read("sales")
        assert read.schema.equals(table.schema)
        assert read.equals(table)

    def test_writing_again_replaces_the_partition_and_leaves_the_others(self, ports: Ports) -> None:
        ports.tables.write("sales", partition={"day": "1"}, table=pa.table({"a": [1, 2]}))
        ports.tables.write("sales", partition={"day": "2"}, table=pa.table({"a": [3]}))
        ports.tables.write("sales", partition={"day": "1"}, table=pa.table({"a": [9]}))
        assert ports.tables.read("sales").to_pydict() == {"a": [9, 3]}
        assert ports.tables.partitions("sales") == [{"day": "1"}, {"day": "2"}]

    def test_partitions_are_read_by_any_part_of_their_values(self, ports: Ports) -> None:
        for n, (model, day) in enumerate([("m", "1"), ("m", "2"), ("other", "1")]):
            ports.tables.write("sales", partition={"model": model, "day": day}, table=pa.table({"a": [n]}))
        assert ports.tables.read("sales", partition={"model": "m"}).to_pydict() == {"a": [0, 1]}
        assert ports.tables.read("sales", partition={"day": "1"}).to_pydict() == {"a": [0, 2]}
        assert ports.tables.read("sales", partition={"day": "2", "model": "m"}).to_pydict() == {"a": [1]}
        assert ports.tables.partitions("sales", partition={"model": "m"}) == [{"day": "1", "model": "m"}, {"day": "2", "model": "m"}]
        for nothing in ({"model": "nobody"}, {"shop": "m"}, {"model": "other", "day": "2"}):
            assert ports.tables.partitions("sales", partition=nothing) == []
            with pytest.raises(NotFound, match="Nothing is kept in 'sales' with"):
                ports.tables.read("sales", partition=nothing)

    def test_the_order_in_which_a_partition_is_written_down_means_nothing(self, ports: Ports) -> None:
        ports.tables.write("sales", partition={"model": "m", "day": "1"}, table=pa.table({"a": [1]}))
        ports.tables.write("sales", partition={"day": "1", "model": "m"}, table=pa.table({"a": [2]}))
        assert ports.tables.read("sales").to_pydict() == {"a": [2]}
        ports.tables.delete("sales", partition={"model": "m", "day": "1"})
        assert ports.tables.partitions("sales") == []

    def test_chosen_columns_come_in_the_order_asked_and_an_unknown_one_is_refused(self, ports: Ports) -> None:
        ports.tables.write("sales", partition={"day": "1"}, table=pa.table({"click_n": [1], "views": [2], "x": [3]}))
        assert ports.tables.read("sales", columns=["x", "click_n"]).to_pydict() == {"x": [3], "click_n": [1]}
        assert ports.tables.read("sales", columns=[]).column_names == []
        with pytest.raises(InvalidInput, match=r"'sales' has no column 'clicks'. Columns: .* did you mean 'click_n'"):
            ports.tables.read("sales", columns=["x", "clicks"])

    def test_a_column_that_only_some_partitions_have_is_null_in_the_others(self, ports: Ports) -> None:
        ports.tables.write("sales", partition={"day": "1"}, table=pa.table({"a": [1]}))
        ports.tables.write("sales", partition={"day": "2"}, table=pa.table({"b": ["x"], "a": [2]}))
        ports.tables.write("sales", partition={"day": "3"}, table=pa.table({"a": [3], "b": pa.nulls(1)}))
        assert ports.tables.read("sales").to_pydict() == {"a": [1, 2, 3], "b": [None, "x", None]}
        assert ports.tables.read("sales", columns=["b"]).to_pydict() == {"b": [None, "x", None]}
        assert ports.tables.scan("sales").to_table().to_pydict() == {"a": [1, 2, 3], "b": [None, "x", None]}

    def test_a_column_of_two_types_is_refused(self, ports: Ports) -> None:
        ports.tables.write("sales", partition={"day": "1"}, table=pa.table({"a": [1]}))
        ports.tables.write("sales", partition={"day": "2"}, table=pa.table({"a": ["x"]}))
        with pytest.raises(InvalidInput, match="cannot be read as one table"):
            ports.tables.read("sales")
        assert ports.tables.read("sales", partition={"day": "2"}).to_pydict() == {"a": ["x"]}

    def test_two_columns_of_one_name_are_refused_and_the_old_partition_stays(self, ports: Ports) -> None:
        ports.tables.write("sales", partition={"day": "1"}, table=pa.table({"a": [1]}))
        with pytest.raises(InvalidInput, match="share a name"):
            ports.tables.write("sales", partition={"day": "1"}, table=pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]))
        assert ports.tables.read("sales").to_pydict() == {"a": [1]}

    def test_hostile_partition_values_stay_apart(self, ports: Ports) -> None:
        for n, text in enumerate(HOSTILE_TEXTS[:-1]):
            ports.tables.write("sales", partition={"day": text, "model": text}, table=pa.table({"n": [n]}))
        for n, text in enumerate(HOSTILE_TEXTS[:-1]):
            assert ports.tables.read("sales", partition={"model": text}).to_pydict() == {"n": [n]}
        assert [p["day"] for p in ports.tables.partitions("sales")] == sorted(HOSTILE_TEXTS[:-1])
        assert [p["model"] for p in ports.tables.partitions("sales")] == sorted(HOSTILE_TEXTS[:-1])

    @pytest.mark.parametrize("partition", [{"day": "ü" * 100}, {"a/b": "x"}, {"..": "x"}, {"": "x"}, {"day": "\ud800"}, {"day": 5}])
    def test_a_partition_that_no_folder_can_say_is_refused(self, ports: Ports, partition: dict[str, Any]) -> None:
        with pytest.raises(InvalidInput):
            ports.tables.write("sales", partition=partition, table=pa.table({"a": [1]}))
        assert ports.tables.partitions("sales") == []

    @pytest.mark.parametrize("dataset", ["", "..", "a/b", "/etc", "\x00"])
    def test_a_dataset_needs_a_name(self, ports: Ports, dataset: str) -> None:
        with pytest.raises(InvalidInput, match="name of a dataset"):
            ports.tables.write(dataset, partition={}, table=pa.table({"a": [1]}))
        with pytest.raises(InvalidInput, match="name of a dataset"):
            ports.tables.read(dataset)

    def test_a_dataset_may_do_without_partitions(self, ports: Ports) -> None:
        ports.tables.write("sales", partition={}, table=pa.table({"a": [1]}))
        assert ports.tables.partitions("sales") == [{}]
        assert ports.tables.read("sales").to_pydict() == {"a": [1]}

    def test_a_table_of_no_rows_is_a_table(self, ports: Ports) -> None:
        empty = pa.table({"a": pa.array([], pa.int64()), "s": pa.array([], pa.string())})
        assert ports.tables.write("sales", partition={"day": "1"}, table=empty) == 0
        assert ports.tables.read("sales").equals(empty)
        assert ports.tables.partitions("sales") == [{"day": "1"}]

    def test_an_unknown_dataset_has_no_partitions_and_cannot_be_read(self, ports: Ports) -> None:
        assert ports.tables.partitions("sales") == []
        for read in (ports.tables.read, ports.tables.scan):
            with pytest.raises(NotFound, match="Nothing is kept in 'sales'"):
                read("sales")

    def test_deleting_twice_changes_nothing_more(self, ports: Ports) -> None:
        ports.tables.write("sales", partition={"day": "1"}, table=pa.table({"a": [1]}))
        ports.tables.write("sales", partition={"day": "2"}, table=pa.table({"a": [2]}))
        for _ in range(2):
            ports.tables.delete("sales", partition={"day": "1"})
            assert ports.tables.read("sales").to_pydict() == {"a": [2]}
        ports.tables.delete("sales", partition={"day": "2"})
        ports.tables.delete("unknown", partition={"day": "2"})
        with pytest.raises(NotFound):
            ports.tables.read("sales")

    def test_a_scan_keeps_what_it_was_opened_on(self, ports: Ports) -> None:
        ports.tables.write("sales", partition={"day": "1"}, table=pa.table({"a": list(range(1000))}))
        dataset = ports.tables.scan("sales", partition={"day": "1"})
        ports.tables.write("sales", partition={"day": "1"}, table=pa.table({"a": [0.5] * 50_000}))
        assert dataset.count_rows() == 1000
        assert dataset.to_table(columns=["a"])["a"].to_pylist() == list(range(1000))
        ports.tables.delete("sales", partition={"day": "1"})
        assert dataset.to_table().num_rows == 1000

    def test_numbers_that_the_caller_changes_later_stay(self, ports: Ports) -> None:
        numbers = np.arange(5)
        ports.tables.write("sales", partition={}, table=pa.table({"a": numbers}))
        numbers[:] = -1
        assert ports.tables.read("sales").to_pydict() == {"a": [0, 1, 2, 3, 4]}

    def test_reading_while_partitions_are_replaced_and_deleted_never_fails(self, ports: Ports) -> None:
        def table_of(n: int) -> pa.Table:
            return pa.table({"n": np.full(10 * n, n), "text": [str(n)] * (10 * n)})

        done = Event()
        ports.tables.write("sales", partition={"day": "1"}, table=table_of(1))

        def work(number: int) -> list[set[tuple[int, str]]]:
            if number == 0:
                try:
                    for n in range(1, 40):
                        ports.tables.write("sales", partition={"day": "1"}, table=table_of(n))
                        ports.tables.write("sales", partition={"day": "2"}, table=table_of(1))
                        ports.tables.delete("sales", partition={"day": "2"})
                finally:
                    done.set()
                return []
            n_read = 0
            while not done.is_set() or not n_read:
                whole = ports.tables.read("sales", partition={"day": "1"})
                (value,) = set(whole["n"].to_pylist())
                assert whole.equals(table_of(value))
                assert ports.tables.read("sales").num_rows % 10 == 0
                n_read += 1
            return []

        in_threads(work, n=3)

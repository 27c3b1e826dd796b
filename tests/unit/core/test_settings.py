from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from endcap.core.errors import InvalidInput
from endcap.core.settings import Settings, format_bytes, parse_bytes, read_settings


def test_an_empty_environment_gives_the_defaults() -> None:
    assert read_settings({}) == Settings()
    assert read_settings({"ENDCAP_MEMORY_LIMIT": "", "ENDCAP_EXECUTOR": " ", "ENDCAP_WORKERS": "", "ENDCAP_TEMPORARY": ""}) == Settings()


def test_every_setting_is_read() -> None:
    environ = {
        "ENDCAP_MEMORY_LIMIT": "512MiB",
        "ENDCAP_EXECUTOR": "ray://head:10001",
        "ENDCAP_WORKERS": "3",
        "ENDCAP_THREADS": "2",
        "ENDCAP_TEMPORARY": "/scratch/endcap",
        "UNRELATED": "x",
    }
    found = read_settings(environ)
    assert found == Settings(memory_limit=2**29, executor="ray://head:10001", n_workers=3, n_threads=2, temporary=Path("/scratch/endcap"))


@pytest.mark.parametrize(("text", "n"), [("6GB", 6 * 10**9), ("6 gb", 6 * 10**9), ("0.5KiB", 512), (" 7 ", 7), ("1TiB", 2**40), ("100b", 100)])
def test_sizes_have_units_of_a_thousand_and_of_1024(text: str, n: int) -> None:
    assert parse_bytes(text) == n


@pytest.mark.parametrize("text", ["", "GB", "6 GBs", "-1GB", "0", "0.0001B", "1e9", "6,5GB", "٣GB", "nan", "inf GB", "1" * 400 + "GB"])
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^ENDCAP_MEMORY_LIMIT is .* which is no size\. Hint: .* 6GB, 512MiB"):
        parse_bytes(text, what="ENDCAP_MEMORY_LIMIT")


def test_sizes_are_written_for_people() -> None:
    assert [format_bytes(n) for n in (1, 2048, 2**29, 3 * 2**30)] == ["1 bytes", "2 KiB", "512 MiB", "3 GiB"]


@pytest.mark.parametrize("name", ["ENDCAP_WORKERS", "ENDCAP_THREADS"])
@pytest.mark.parametrize("text", ["0", "-2", "two", "1.5", "²"])
def test_what_is_no_count_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{name} is '{text}', which is no whole number above 0"):
        read_settings({name: text})


def test_an_unknown_executor_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match=r"^ENDCAP_EXECUTOR: 'proceses' names no executor.*did you mean 'processes'"):
        read_settings({"ENDCAP_EXECUTOR": "proceses"})
    with pytest.raises(InvalidInput, match="'ray://' names no executor"):
        read_settings({"ENDCAP_EXECUTOR": "ray://"})


@pytest.mark.parametrize("given", [{"memory_limit": 0}, {"n_workers": 0}, {"n_threads": -1}, {"executor": "cloud"}])
def test_settings_made_in_python_are_held_to_the_same(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=r"leaves nothing to work with|names no executor"):
        Settings(**given)


def test_hosts_of_the_own_network_are_listed_with_commas() -> None:
    assert read_settings({}).webhook_hosts == ()
    assert read_settings({"ENDCAP_WEBHOOK_HOSTS": " Chat.example, 10.0.0.5 ,,"}).webhook_hosts == ("chat.example", "10.0.0.5")

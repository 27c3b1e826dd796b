from __future__ import annotations

import platform

from endcap.pipelines.code import digest_code, read_lock


def test_the_digest_of_the_code_is_the_same_each_time() -> None:
    before = digest_code()
    digest_code.cache_clear()
    assert digest_code() == before
    assert len(before) == 32


def test_the_lock_names_the_interpreter_and_what_results_depend_on() -> None:
    lock = read_lock()
    assert lock["python"] == platform.python_version()
    assert {"numpy", "pyarrow", "duckdb", "lightgbm", "msgspec"} <= set(lock)
    assert all(" sha256:" in version for name, version in lock.items() if name != "python")

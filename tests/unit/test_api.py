"""The front door: few names, sorted, each there and documented, and nothing heavy loaded by walking in."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import endcap

SOURCE = Path(endcap.__file__).parent
HEAVY = ("numpy", "pyarrow", "duckdb", "numba", "lightgbm", "matplotlib", "rich", "click", "jinja2", "holidays", "psutil", "msgspec")


def test_the_names_are_few_and_sorted() -> None:
    assert 0 < len(endcap.__all__) <= 40
    assert endcap.__all__ == sorted(endcap.__all__)
    assert len(set(endcap.__all__)) == len(endcap.__all__)
    assert dir(endcap) == endcap.__all__
    assert set(endcap._HOMES) == set(endcap.__all__)


@pytest.mark.parametrize("name", endcap.__all__)
def test_each_name_is_there_and_documented(name: str) -> None:
    value = getattr(endcap, name)
    assert value is getattr(endcap, name)
    documentation = inspect.getdoc(value)
    assert documentation
    assert documentation.split("\n", 1)[0].strip().endswith((".", ":")), f"endcap.{name} begins with half a sentence"
    assert value.__module__.startswith("endcap.")


def test_a_name_that_is_not_there_is_an_attribute_error_with_those_that_are() -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'Forcast'. Names: \['Charter'"):
        endcap.Forcast  # noqa: B018 - asked for on purpose
    assert not hasattr(endcap, "__wrapped__")


def loaded_by(code: str) -> set[str]:
    """The top-level packages that a fresh interpreter holds after some code."""
    show = "import sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = loaded_by("import endcap")
    assert "endcap" in loaded
    assert not loaded & set(HEAVY)


def test_a_definition_file_and_the_table_of_verbs_load_no_heavy_library() -> None:
    code = "import endcap as ec\nec.Forecast('m', ec.Table('t', 't.csv', keys=['k'], event_time='d'), ec.sum('u'))\n"
    assert not loaded_by(code) & {"numpy", "pyarrow", "duckdb", "numba", "lightgbm", "matplotlib"}


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add(str(node.module))
    return found


def test_nothing_inside_imports_the_front_door() -> None:
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 80
    for path in files:
        assert "endcap" not in imports_of(path), f"{path} imports endcap itself"


def test_every_package_has_a_charter() -> None:
    for path in sorted(SOURCE.rglob("__init__.py")):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} says nothing"


def test_the_package_is_marked_as_typed() -> None:
    assert (SOURCE / "py.typed").exists()

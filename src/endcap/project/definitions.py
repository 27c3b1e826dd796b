"""The definition file: ``project.py``, plain Python, read by running it."""

from __future__ import annotations

import ast
import importlib.util
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.tables import Table
from endcap.core.errors import DefinitionError, EndcapError, NotFound, suggest
from endcap.loop.retraining.tasks import Task

FILE = "project.py"
_MODULE = "endcap_project"


@dataclass(frozen=True)
class Definitions:
    """What a definition file defines, by name. ``lines`` are where the file gives views their names, of those that it does give."""

    folder: Path
    tables: dict[str, Table]
    models: dict[str, Forecast]
    views: dict[str, FeatureView] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def task(self, model: str) -> Task:
        """The model as the loop runs it. Raises NotFound with the nearest name."""
        from endcap.solutions.forecasting.hours.task import HourForecastTask
        from endcap.solutions.forecasting.task import ForecastTask

        if model not in self.models:
            raise NotFound(f"{self.folder / FILE} defines no model {model!r}. Models: {sorted(self.models)}.", hint=suggest(model, self.models))
        forecast = self.models[model]
        return HourForecastTask(forecast) if forecast.hourly else ForecastTask(forecast)


def load_definitions(folder: Path) -> Definitions:
    """Run ``folder/project.py`` and collect the tables, feature views and models among its names, and what these read.

    Raises NotFound when there is no such file, DefinitionError with the line for one that cannot be run, and when two definitions share
    a name. The file's own folder may be imported from while it runs.
    """
    path = folder / FILE
    if not path.is_file():
        raise NotFound(f"There is no {FILE} in {folder.resolve()}.", hint="make one with: endcap init, or: endcap forecast YOUR.csv ...")
    module = _run(path)
    tables: dict[str, Table] = {}
    models: dict[str, Forecast] = {}
    views: dict[str, FeatureView] = {}
    names: dict[str, str] = {}
    for name, value in vars(module).items():
        found: tuple[Table, ...] = ()
        if isinstance(value, Forecast):
            _add(models, value.name, value, what="model")
            found = value.tables
            for view in value.features:
                _add(views, view.name, view, what="feature view")
        elif isinstance(value, FeatureView):
            _add(views, value.name, value, what="feature view")
            names.setdefault(name, value.name)
            found = value.sources
        elif isinstance(value, Table):
            found = (value,)
        for table in found:
            _add(tables, table.name, table, what="table")
    return Definitions(folder, tables, models, views, _find_lines(path, names) if names else {})


def _find_lines(path: Path, names: dict[str, str]) -> dict[str, int]:
    """Where the file last assigns the names, by what they name."""
    assigned = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Assign)]
    targets = [(target.id, node.lineno) for node in assigned for target in node.targets if isinstance(target, ast.Name)]
    return {names[name]: line for name, line in sorted(targets, key=lambda pair: pair[1]) if name in names}


def _add(found: dict[str, Any], name: str, value: Any, *, what: str) -> None:
    if name in found and found[name] != value:
        raise DefinitionError(f"Two {what}s are called '{name}' and differ.", hint="give one of them another name")
    found[name] = value


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    assert spec is not None, "a file with the ending .py has a loader"
    assert spec.loader is not None, "as above"
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    sys.modules[_MODULE] = module  # dataclasses and the like look their module up
    try:
        spec.loader.exec_module(module)
    except EndcapError as error:
        raise DefinitionError(f"{path}, line {_line(error, path)}: {error.what}", hint=error.hint) from error
    except SyntaxError as error:
        raise DefinitionError(f"{path}, line {error.lineno}: {error.msg}.") from error
    except (Exception, SystemExit) as error:
        raise DefinitionError(f"{path}, line {_line(error, path)}: {type(error).__name__}: {error}.") from error
    finally:
        sys.path.remove(str(path.parent.resolve()))
        del sys.modules[_MODULE]
    return module


def _line(error: BaseException, path: Path) -> int | str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path.absolute()]
    return lines[-1] if lines and lines[-1] is not None else "?"

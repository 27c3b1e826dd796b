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

import msgspec

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.models import Model
from endcap.core.definitions.tables import Table
from endcap.core.errors import DefinitionError, EndcapError, IntegrityBroken, InvalidInput, NotFound, suggest
from endcap.loop.registry.records import ModelRecord
from endcap.loop.registry.versions import TRACKED
from endcap.loop.retraining.tasks import Task

FILE = "project.py"
_MODULE = "endcap_project"


@dataclass(frozen=True)
class Definitions:
    """What a definition file defines, by name: ``models`` are trained by their cycle, ``own`` by one's own code. ``lines`` are where the file
    gives views their names, of those that it does give.
    """

    folder: Path
    tables: dict[str, Table]
    models: dict[str, Forecast]
    views: dict[str, FeatureView] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    own: dict[str, Model] = field(default_factory=dict)

    def task(self, model: str) -> Task:
        """The model as the loop runs it. Raises NotFound with the nearest name, InvalidInput for one that one's own code trains."""
        if model in self.own:
            raise InvalidInput(
                f"Model '{model}' is trained by your own code: there is no cycle to run.",
                hint=f"log a run, then: endcap register-run RUN PATH --model {model}",
            )
        if model not in self.models:
            raise NotFound(f"{self.folder / FILE} defines no model {model!r}. Models: {sorted(self.models)}.", hint=suggest(model, self.models))
        return make_task(self.models[model])


def make_task(forecast: Forecast) -> Task:
    """A forecast as the loop runs it."""
    from endcap.solutions.forecasting.hours.task import HourForecastTask
    from endcap.solutions.forecasting.task import ForecastTask

    return HourForecastTask(forecast) if forecast.hourly else ForecastTask(forecast)


def read_definition(record: ModelRecord) -> Forecast | Model:
    """What the user wrote of a model, as it was last applied. Raises InvalidInput for a model of neither kind."""
    kinds: dict[str, type[Forecast | Model]] = {TRACKED: Model, "forecasting": Forecast}
    if record.solution not in kinds:
        raise InvalidInput(f"Model '{record.name}' is of the solution '{record.solution}', whose definition is not read here.")
    try:
        return msgspec.json.decode(record.definition, type=kinds[record.solution])
    except msgspec.DecodeError as error:
        raise IntegrityBroken(f"The definition of model '{record.name}' does not read as one: {error}.", hint="endcap apply") from error


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
    own: dict[str, Model] = {}
    names: dict[str, str] = {}
    for name, value in vars(module).items():
        found: tuple[Table, ...] = ()
        if isinstance(value, Forecast):
            _add(models, value.name, value, what="model")
            found = value.tables
            for view in value.features:
                _add(views, view.name, view, what="feature view")
        elif isinstance(value, Model):
            _add(own, value.name, value, what="model")
            found = tuple(table for view in value.features for table in view.sources)
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
    if both := sorted(set(models) & set(own)):
        raise DefinitionError(f"Two models are called '{both[0]}' and differ.", hint="give one of them another name")
    return Definitions(folder, tables, models, views, _find_lines(path, names) if names else {}, own)


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

"""Predictions of one model as a table, from which another may take its features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.tables import Table, as_names
from endcap.core.errors import DefinitionError


def predictions_of(model: Forecast | str, *, keys: Sequence[str] | None = None, target: str | None = None, name: str | None = None) -> Table:
    """The logged predictions of a model of the workspace as a table.

    A forecast that is made on Monday for Friday is a fact of Monday *about* Friday. So its event time, and the instant from which it is known, is
    when it was made (``predicted_at``), and what it is about is one of its keys: ``target_day``, or ``ts`` for an hourly model. Joined to a spine
    whose rows name a store and Friday, at an instant on Monday, it gives the newest forecast for Friday that was there on Monday; one
    that was made on Tuesday is not seen. An event time of Friday would hide it until Friday.

    ``keys`` are the model's own and ``target`` the column that says what the forecast is about (None: as the Forecast has them; with a mere name
    ``keys`` must be given, and ``target`` is ``target_day``). ``name`` None is the model's with ``-predictions``. Further columns: ``forecast``,
    ``lower_90``, ``upper_90``, ``version``, ``origin``. Raises DefinitionError for what is no model, or without keys.

    >>> predictions_of("store-day", keys=["store_id"]).keys
    ('store_id', 'target_day')
    """
    given: Any = model
    if isinstance(given, Forecast):
        own, about, zone = given.keys, "ts" if given.hourly else "target_day", given.table.zone
    elif isinstance(given, str):
        own, about, zone = (), "target_day", None
    else:
        raise DefinitionError(f"{given!r} is no model.", hint="give an ec.Forecast, or its name")
    called = given.name if isinstance(given, Forecast) else given
    own = own if keys is None else as_names(keys, what=f"The keys of the predictions of '{called}'")
    if not own:
        raise DefinitionError(f"The predictions of '{called}' have no keys.", hint=f"ec.predictions_of({called!r}, keys=['store_id'])")
    return Table(
        name or f"{called}-predictions",
        f"predictions://{called}",
        keys=(*own, target or about),
        event_time="predicted_at",
        known_at="predicted_at",
        zone=zone,
        description=f"What '{called}' predicted: a row for each prediction, known from the instant it was made.",
    )

"""Calendars: public holidays and worked weekends of a country or region, which are known years ahead."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np

from endcap.core.errors import DefinitionError, suggest
from endcap.loop.features.panels.day_panels import Flags

PUBLIC_HOLIDAY, WEEKEND_WORKDAY = "public_holiday", "weekend_workday"
BEYOND_DAYS = 14  # how far a calendar reaches beyond the last target, so that a run of days off is seen to its end


def find_holidays(where: str | None, *, start: date, n_days: int) -> dict[str, Flags]:
    """Flags of ``n_days`` days from ``start`` by name: ``public_holiday`` and ``weekend_workday``, each only if it is ever set.

    ``where`` is a country (``DE``) or country and region (``DE-BY``); None gives no flags. Raises DefinitionError for one without a calendar.
    """
    if where is None:
        return {}
    import holidays

    country, _, region = where.partition("-")
    days = [start + timedelta(days=i) for i in range(n_days)]
    try:
        calendar = holidays.country_holidays(country, subdiv=region or None, years=sorted({day.year for day in days}))
    except (NotImplementedError, KeyError) as error:
        offered = holidays.list_supported_countries()
        raise DefinitionError(f"{where!r} has no holiday calendar.", hint=suggest(country, offered) or "use a code such as DE or DE-BY") from error
    worked: set[date] = getattr(calendar, "weekend_workdays", set())
    flags = {PUBLIC_HOLIDAY: [day in calendar for day in days], WEEKEND_WORKDAY: [day in worked for day in days]}
    return {name: np.array(row, dtype=np.bool_) for name, row in flags.items() if any(row)}

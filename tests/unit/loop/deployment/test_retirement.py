from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.predictions import predictions_of
from endcap.core.errors import Conflict, GateRefused, InvalidInput, NotFound
from endcap.governance.audit import list_audit
from endcap.governance.notices import list_notices
from endcap.loop.deployment.retirement import find_consumers, retire, unretire
from endcap.loop.features.catalogue import register_view
from endcap.loop.registry.releases import promote
from endcap.loop.registry.retirements import find_retirement, require_in_service

EXPECTED = FeatureView(name="expected", source=predictions_of("store-day", keys=["store_id"]), features={"expected": "forecast"})


@pytest.fixture
def read_by_a_view(shop: Any) -> Any:
    with shop.session.change("apply", thing="view/expected") as change:
        register_view(shop.session, change, EXPECTED, folder=Path())
    return shop


def test_a_model_that_nobody_reads_ends_at_once(shop: Any) -> None:
    found = retire(shop.session, "store-day", reason="the shop closed")
    assert (found.effective_at, found.consumers, found.by) == (shop.session.now(), (), "ada")
    with pytest.raises(Conflict, match=r"retired since .* by ada: the shop closed"):
        require_in_service(shop.session, "store-day")
    (row,) = list_audit(shop.session, limit=1)
    assert (row.verb, row.thing, row.detail["reason"]) == ("retire", "model/store-day", "the shop closed")


def test_consumers_are_named_and_get_their_notice(read_by_a_view: Any) -> None:
    shop = read_by_a_view
    assert find_consumers(shop.session, "store-day") == ("table/store-day-predictions", "view/expected")
    found = retire(shop.session, "store-day")
    assert found.consumers == ("table/store-day-predictions", "view/expected")
    assert found.effective_at == shop.session.now() + timedelta(days=14)
    require_in_service(shop.session, "store-day")
    (notice, *_) = list_notices(shop.session)
    assert (notice.kind, notice.thing) == ("retired", "model/store-day")
    assert notice.sentence.endswith("table/store-day-predictions, view/expected lean on it")
    shop.pass_time(days=14)
    with pytest.raises(Conflict, match="no reason was given"):
        require_in_service(shop.session, "store-day")


def test_the_notice_can_be_said(read_by_a_view: Any) -> None:
    shop = read_by_a_view
    assert retire(shop.session, "store-day", notice="0d").effective_at == shop.session.now()


@pytest.mark.parametrize("notice", ["soon", "-3d", "", "999999999d", "9999999999999999d"])
def test_a_notice_that_is_none_is_refused_and_nothing_is_kept(shop: Any, notice: str) -> None:
    with pytest.raises(InvalidInput):
        retire(shop.session, "store-day", notice=notice)
    assert find_retirement(shop.session, "store-day") is None


def test_a_model_comes_back_and_can_be_retired_again(shop: Any) -> None:
    with pytest.raises(Conflict, match="is not retired"):
        unretire(shop.session, "store-day")
    retire(shop.session, "store-day")
    with pytest.raises(Conflict, match="retired already"):
        retire(shop.session, "store-day")
    assert unretire(shop.session, "store-day").withdrawn_at == shop.session.now()
    require_in_service(shop.session, "store-day")
    with pytest.raises(Conflict, match="is not retired"):
        unretire(shop.session, "store-day")
    retire(shop.session, "store-day")
    assert find_retirement(shop.session, "store-day") is not None


def test_a_model_that_is_not_there_is_not_found(shop: Any) -> None:
    for act in (retire, unretire):
        with pytest.raises(NotFound):
            act(shop.session, "store-dya")


def test_a_version_of_a_retired_model_is_not_released(shop: Any) -> None:
    version = shop.register("a")
    shop.judge(version)
    retire(shop.session, "store-day")
    with pytest.raises(GateRefused, match="its model is retired"):
        promote(shop.session, version.id)
    unretire(shop.session, "store-day")
    assert promote(shop.session, version.id).version == version.id


def test_a_clock_that_jumps_back_releases_nothing_of_a_model_that_has_ended(shop: Any) -> None:
    version = shop.register("a")
    shop.judge(version)
    before = replace(shop.session, clock=type(shop.clock)(shop.session.now()))
    shop.pass_time(hours=1)
    retire(shop.session, "store-day")
    for session in (shop.session, before):
        with pytest.raises(GateRefused, match="its model is retired since"):
            promote(session, version.id)

from __future__ import annotations

import io

import pytest
from rich.console import Console

from endcap.assembly import open_house
from endcap.faces.cli.rendering import show
from endcap.governance.quotas.costs import list_costs
from endcap.governance.quotas.places import hold_place
from endcap.governance.quotas.queue import list_queue
from endcap.governance.quotas.recounting import Recount
from endcap.governance.quotas.settling import set_quota
from endcap.governance.quotas.usage import count_use
from endcap.governance.sessions import Session
from endcap.testing.places import put_elsewhere
from endcap.testing.sessions import make_session


@pytest.fixture
def session() -> Session:
    return make_session()


def shown(result: object) -> list[str]:
    out = io.StringIO()
    show(result, Console(file=out, width=240, highlight=False))
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_limits_are_a_table_with_units_that_people_read(session: Session) -> None:
    set_quota(session, cpu_minutes="600/month", memory="4GiB", runs=2, requests="90/min")
    with session.records.transact() as tx:
        count_use(session, tx, "model/a", cpu_s=90.0)
    assert shown(set_quota(session, actor="bob", storage="1MiB"))[1:] == ["default bob storage 1 MiB at rest 0 bytes 1 MiB - ada 2026-01-05 08:00:00"]
    assert shown(set_quota(session, runs=3)) == [
        "workspace actor limit allowed used left begins anew set by set at",
        "default all cpu-minutes 600 a month 1.5 598.5 2026-02-01 00:00:00 ada 2026-01-05 08:00:00",
        "default all memory 4 GiB a run - - - ada 2026-01-05 08:00:00",
        "default all runs 3 at once 0 3 - ada 2026-01-05 08:00:00",
        "default all requests 90 in 60 s - - - ada 2026-01-05 08:00:00",
    ]


def test_the_queue_is_a_table_of_who_runs_and_who_waits(session: Session) -> None:
    set_quota(session, runs=1)
    running, waiting = put_elsewhere(session), put_elsewhere(session, state="waiting", subject="view/x")
    assert shown(list_queue(session))[1:] == [
        f"runs {running.id} default bob model/far 2026-01-05 08:00:00 process 1 on far -",
        f"1 {waiting.id} default bob view/x 2026-01-05 08:00:00 process 1 on far workspace 'default' runs as many as they may",
    ]


def test_costs_and_a_recount_are_told() -> None:
    with open_house("memory://") as house:
        session = house.session(actor="ada")
        with hold_place(session, "model/a") as own:
            own.blobs.put(b"x" * 2048)
            with own.records.transact() as tx:
                count_use(own, tx, "model/a", cpu_s=90.0, wall_s=100.0, n_runs=1)
        assert shown(list_costs(session)) == ["of CPU-s took runs requests refused stored held", "model/a 90.0 1 min 40 s 1 0 0 2 KiB 2 KiB"]
    more = Recount(workspace="default", n_blobs=3, n_partitions=1, n_bytes=5000, n_bytes_before=1000)
    assert shown(more) == ["workspace default holds 4.9 KiB in 3 blobs and 1 partitions of tables", "3.9 KiB more than was counted"]
    same = Recount(workspace="default", n_blobs=0, n_partitions=0, n_bytes=0, n_bytes_before=0)
    assert shown(same)[1] == "as was counted"

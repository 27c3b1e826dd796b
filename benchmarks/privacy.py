"""What privacy costs: sealing and opening 1 M rows, and forgetting somebody in a home with 100,000 people. CPU seconds of one thread."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.governance.audit import list_audit
from endcap.governance.privacy.sealing import Mark, Place, mark_personal, seal_table, unseal_table
from endcap.governance.privacy.subjects import Subjects
from endcap.loop.features.catalogue import register_view
from endcap.loop.features.kept.materialisation import materialise
from endcap.loop.features.online import open_online
from endcap.project.forgetting import forget
from endcap.testing.sessions import make_session

T = TypeVar("T")
PLACE = Place("people", {"workspace": "default"})
N_ROWS, N_PEOPLE = 1_000_000, 100_000


def measure(work: Callable[[], T]) -> tuple[float, T]:
    began = time.process_time()
    found = work()
    return round(time.process_time() - began, 3), found


def seal_rows(n_people: int, folder: Path) -> dict[str, float]:
    session = make_session(folder / f"home{n_people}")
    ids = np.random.default_rng(0).permutation(N_ROWS) % n_people
    table = pa.table({"customer": ids, "email": pa.array([f"person{n}@example.org" for n in ids.tolist()])})
    marked, subjects = mark_personal(table, {"email": Mark("customer", "customer")}), Subjects(session)
    first_s, _ = measure(lambda: seal_table(marked, subjects, place=PLACE))
    seal_s, sealed = measure(lambda: seal_table(marked, subjects, place=PLACE))
    open_s, opened = measure(lambda: unseal_table(sealed, subjects, place=PLACE))
    assert opened["email"].equals(table["email"])
    session.ports.close()
    return {"seal_with_new_keys_s": first_s, "seal_s": seal_s, "unseal_s": open_s}


def forget_one(folder: Path) -> dict[str, float]:
    at = datetime(2026, 3, 4, 9, tzinfo=UTC)
    session = make_session(folder / "shop", start=at)
    ids = np.arange(N_PEOPLE)
    rows = {"customer_id": ids, "email": pa.array([f"person{n}@example.org" for n in ids.tolist()]), "spend": ids * 0.5}
    times = pa.array(np.full(N_PEOPLE, np.datetime64("2026-03-01")), pa.timestamp("us"))
    figures = {}
    for name, personal in (("plain", ()), ("facts", ("email",))):
        pq.write_table(pa.table({**rows, "at": times}), folder / f"{name}.parquet")
        table = Table(name, f"{name}.parquet", keys=("customer_id",), event_time="at", zone="UTC", personal=personal)
        view = FeatureView(name=name, source=table, features=["email", "spend"])
        with session.change("apply", thing=name) as change:
            register_view(session, change, view, folder=folder)
        figures[f"materialise_{name}_s"], _ = measure(lambda name=name: materialise(session, name))
        reader = open_online(session, [name])
        figures[f"read_1000_{name}_s"], _ = measure(lambda reader=reader: reader.read(list(range(1000))))
        figures[f"read_one_{name}_us"] = round(measure(lambda reader=reader: [reader.read_one(n) for n in range(500)])[0] * 2000, 1)
    figures["dry_run_s"], planned = measure(lambda: forget(session, key="customer_id=77"))
    figures["forget_s"], done = measure(lambda: forget(session, key="customer_id=77", yes=True))
    assert (planned.state, done.state, done.n_online) == ("planned", "done", 1)
    assert open_online(session, ["facts"]).read([77])[0].columns["email"] == [None]
    assert list_audit(session)[0].verb == "forget" or any(row.verb == "forget" for row in list_audit(session))
    session.ports.close()
    return figures


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        figures = {f"people_{n}": seal_rows(n, folder) for n in (1_000, 100_000, 1_000_000)}
        print(json.dumps({"rows": N_ROWS, **figures, "forgetting": {"people": N_PEOPLE, **forget_one(folder)}}))


if __name__ == "__main__":
    main()

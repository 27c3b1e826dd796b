"""What signing in costs: a token that is looked up, credentials kept from a moment ago, a password, a whole pass through the gateway; and a right.

A home of files with 10,000 users and as many tokens in 1,000 workspaces: half of the users have a role of their own, the others are in one of 200
groups, a tenth has both; each group has a role in five workspaces. CPU time of one process, medians of rounds. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from endcap.assembly import House, open_house
from endcap.core.permissions import Permission, Role
from endcap.faces.http.gateway import Gateway
from endcap.faces.http.heads import read_head
from endcap.faces.http.sessions import SignIn
from endcap.governance.credentials import check_user, open_by_token
from endcap.governance.groups import add_group, join_group, list_groups
from endcap.governance.people import add_user, list_people
from endcap.governance.records import (
    GRANTS,
    GROUP_GRANTS,
    GROUPS,
    HOUSE,
    MEMBERSHIPS,
    TOKENS,
    USERS,
    Actor,
    Grant,
    Group,
    GroupGrant,
    Membership,
    Token,
    User,
)
from endcap.governance.rights.checks import may_see, note_change, require_right
from endcap.governance.rights.guards import close_thing, give_right
from endcap.governance.sessions import Session
from endcap.governance.signin.page_sessions import find_page_session, make_page_session, open_by_page_session
from endcap.governance.tokens import hash_secret
from endcap.loop.registry.records import MODELS, ModelRecord
from endcap.storage.ports import RecordReader

N_USERS, N_WORKSPACES, N_GROUPS, N_CLOSED = 10_000, 1_000, 200, 1_000
PASSWORD = "pine under marble"
LIMITS = {"token_us": 200, "kept_us": 9, "permission_us": 20, "right_us": 20, "warrant_us": 200, "list_people_ms": 50, "list_groups_ms": 50}


def fill(house: House) -> list[str]:
    """People and tokens, in one transaction; the texts of the tokens."""
    owner, now = house.session(), house.clock.now()
    add_user(owner, "ada", password=PASSWORD)
    texts = []
    with owner.records.transact() as tx:
        for i in range(N_GROUPS):
            tx.append(GROUPS, workspace=HOUSE, record=Group(id=f"group_{i}", name=f"group{i}", made_at=now, made_by="ada"))
            for workspace in (f"team{i + k * N_GROUPS}" for k in range(N_WORKSPACES // N_GROUPS)):
                tx.append(
                    GROUP_GRANTS, workspace=HOUSE, record=GroupGrant(group=f"group_{i}", workspace=workspace, role="approver", at=now, by="ada")
                )
        for i in range(N_USERS):
            name, workspace, secret = f"user{i}", f"team{i % N_WORKSPACES}", f"{i:043d}"
            tx.append(USERS, workspace=HOUSE, record=User(name=name, made_at=now, made_by="ada"))
            if i % 2:
                tx.append(GRANTS, workspace=HOUSE, record=Grant(user=name, workspace=workspace, role="editor", at=now, by="ada"))
            if i % 2 == 0 or i % 10 == 1:
                tx.append(MEMBERSHIPS, workspace=HOUSE, record=Membership(group=f"group_{i % N_GROUPS}", user=name, at=now, by="ada"))
            token = Token(
                id=f"{i:032x}",
                label="bench",
                user=name,
                workspace=workspace,
                role="editor",
                hash=hash_secret(secret),
                made_at=now,
                made_by="ada",
                expires_at=now.replace(year=now.year + 1),
            )
            tx.append(TOKENS, workspace=HOUSE, record=token)
            texts.append(f"endcap_{token.id}_{secret}")
    return texts


def measure_us(call: Callable[[Any], object], values: Sequence[Any], *, rounds: int) -> float:
    """CPU microseconds of a call, the median of rounds over all values."""
    taken = []
    for _ in range(rounds + 1):
        gc.collect()
        began = time.process_time()
        for value in values:
            call(value)
        taken.append((time.process_time() - began) / len(values) * 1e6)
    return round(statistics.median(taken[1:]), 1)


def measure_rights(house: House, *, rounds: int) -> dict[str, float]:
    """What a check of a right costs where nothing is closed, and where 1,000 models are, of one that is open to a group of who asks.

    And what a record costs that is read through the veil, beside the same read without; and the first check after a change, which reads all guards.
    """
    owner = house.session(workspace="closed")
    eve = replace(owner, actor=Actor("user0"), role=Role.EDITOR, admin=False)

    def check(_: object) -> None:
        require_right(eve, "model/m7", Permission.EDIT, verb="bench")

    report = {"right_where_none_asked_us": measure_us(check, range(10_000), rounds=rounds)}
    add_group(owner, "readers")
    join_group(owner, "readers", "user0")
    now = owner.now()
    with owner.records.transact() as tx:
        for i in range(N_CLOSED):
            tx.append(MODELS, workspace="closed", record=ModelRecord(f"m{i}", "tracked", "d", "{}", now, "ada"))
    for i in range(N_CLOSED):
        close_thing(owner, f"model/m{i}", owner="ada", verb="rights restrict")
    give_right(owner, "model/m7", "group/readers", "edit", verb="rights grant")
    report["right_us"] = measure_us(check, range(10_000), rounds=rounds)
    if may_see(eve, "model/m8") or not may_see(eve, "model/m7"):
        raise SystemExit("What is closed is seen, or what is open is not.")
    report["read_us"] = measure_us(lambda _: owner.records.get(MODELS, workspace="closed", id="m7"), range(2000), rounds=rounds)
    report["veiled_read_us"] = measure_us(lambda _: eve.records.get(MODELS, workspace="closed", id="m7"), range(2000), rounds=rounds)
    report["right_first_ms"] = round(measure_us(lambda _: (note_change(), may_see(eve, "model/m8")), range(20), rounds=rounds) / 1000, 2)
    return report


def pass_gateway(gateway: Gateway, headers: list[tuple[bytes, bytes]], *, n: int) -> None:
    """Requests of the quick path, one after the other."""
    scope = {"type": "http", "method": "POST", "path": "/quick", "headers": headers, "client": ("127.0.0.1", 1)}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        if message.get("status", 200) != 200:
            raise SystemExit(f"The gateway says {message}.")

    async def drive() -> None:
        for _ in range(n):
            await gateway(dict(scope), receive, send)

    asyncio.run(drive())


def open_page(records: RecordReader, text: str, at: datetime) -> Any:
    """What a request by cookie costs: its session, and the role of its user in the workspace that it opens by default."""
    return open_by_page_session(records, find_page_session(records, text, now=at), workspace=None)


async def quick(body: bytes, _: Session) -> bytes:
    return body


async def nothing(_: Any, __: Callable[[], Awaitable[Any]], ___: Callable[[Any], Awaitable[None]]) -> None:
    raise SystemExit("The quick path was not taken.")


def main() -> int:
    parser = argparse.ArgumentParser(description="What signing in costs.")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error("--rounds is a whole number from 1")
    with tempfile.TemporaryDirectory(prefix="endcap-access-") as folder, open_house(Path(folder) / "home") as house:
        texts, records, now = fill(house), house.ports.records, house.clock.now()
        rights = measure_rights(house, rounds=given.rounds)
        some = [texts[i] for i in np.random.default_rng(7).permutation(N_USERS)[:2000]]
        signing_in, plain = SignIn(house), [(b"host", b"127.0.0.1:8420"), (b"content-type", b"application/json")]
        head = read_head([*plain, (b"authorization", b"Bearer " + some[0].encode())])
        session = house.session()
        report: dict[str, Any] = {"users": N_USERS, "workspaces": N_WORKSPACES, "groups": N_GROUPS, "limits": LIMITS, **rights}
        report["token_us"] = measure_us(lambda text: open_by_token(records, text, workspace=None, now=now), some, rounds=given.rounds)
        asyncio.run(signing_in.sign_in(head, {"client": ("127.0.0.1", 1)}))
        report["kept_us"] = measure_us(lambda _: signing_in.find_kept(head), range(2000), rounds=given.rounds)
        if signing_in.find_kept(head) is None:
            raise SystemExit("The machine is too slow: what was kept ran out while it was measured.")
        cookies = [make_page_session(session, user).text for user in records.find(USERS, workspace=HOUSE, newest_first=True, limit=500)]
        report["page_session_us"] = measure_us(lambda text: open_page(records, text, house.clock.now()), cookies, rounds=given.rounds)
        report["permission_us"] = measure_us(lambda _: session.require(Permission.OWN, verb="bench"), range(10_000), rounds=given.rounds)
        report["password_ms"] = round(measure_us(lambda _: check_user(records, "ada", PASSWORD), range(3), rounds=given.rounds) / 1000, 1)
        report["list_people_ms"] = round(measure_us(lambda _: list_people(session, everybody=True), range(1), rounds=given.rounds) / 1000, 1)
        report["list_groups_ms"] = round(measure_us(lambda _: list_groups(session, everywhere=True), range(1), rounds=given.rounds) / 1000, 1)
        warrants = [open_by_token(records, text, workspace=None, now=now).warrant for text in some[:500]]
        report["warrant_us"] = measure_us(lambda warrant: warrant.find_lost(records, now), warrants, rounds=given.rounds)
        basic = base64.b64encode(f"ada:{PASSWORD}".encode())
        gateway = Gateway(nothing, {"/quick": quick}, signing_in)
        for name, said in (("gateway_token_us", b"Bearer " + some[1].encode()), ("gateway_basic_us", b"Basic " + basic)):
            report[name] = round(
                measure_us(lambda _, said=said: pass_gateway(gateway, [*plain, (b"authorization", said)], n=5000), [0], rounds=3) / 5000, 1
            )
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

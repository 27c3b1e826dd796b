from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from endcap.assembly import House, open_house
from endcap.core.clock import ManualClock
from endcap.core.errors import Conflict, EndcapError, StorageFull
from endcap.faces.http import application, sessions
from endcap.faces.http.answers import RequestRefused
from endcap.faces.http.application import build_application
from endcap.faces.http.guesses import MOST_AUDITED, MOST_OF_ADDRESS, MOST_OF_PAIR, WINDOW_S, Guesses
from endcap.faces.http.heads import read_head
from endcap.faces.http.sessions import SignIn
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.groups import add_group, grant_group, join_group, leave_group
from endcap.governance.lockout import FIRST_WAIT, FREE, begin_attempt
from endcap.governance.people import add_user, disable_user, grant_role, set_password, unlock_user
from endcap.governance.setting_up import make_setup_code
from endcap.governance.tokens import list_tokens, make_token, revoke_token, rotate_token

GOOD, OTHER = "pine under marble", "marble under pine"

pytestmark = pytest.mark.usefixtures("quick_passwords")
WHO = "/api/v1/tea/brew"
TEA = {"leaf": "assam"}


class Hands:
    """The seconds that sign-in counts by, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def house() -> Iterator[House]:
    with open_house("memory://", clock=ManualClock(datetime(2026, 1, 5, 8, tzinfo=UTC))) as opened:
        yield opened


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    found = Hands()
    monkeypatch.setattr(sessions, "monotonic", found)
    return found


Connect = Callable[..., TestClient]


@pytest.fixture
def connect(house: House, tmp_path: Path, hands: Hands, remote: Any, verbs_of_tea: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Connect:
    """A client of a service that signs in as told."""
    verbs = {entry.verb.name: entry for entry in map(remote, verbs_of_tea.values())}
    monkeypatch.setattr(application, "remote_verbs", lambda: verbs)

    def opened(**given: Any) -> TestClient:
        app = build_application(house, folder=tmp_path, signing_in=SignIn(house, guesses=Guesses(hands), **given))
        return TestClient(app, base_url="http://127.0.0.1:8420", raise_server_exceptions=False, client=("10.0.0.9", 5000))

    return opened


def bearer(token: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", **more}


def basic(name: str, password: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}", **more}


def ask(client: TestClient, headers: dict[str, str] | None = None) -> Any:
    return client.post(WHO, json=TEA, headers=headers)


def test_without_users_the_owner_of_the_machine_is_signed_in(connect: Connect, house: House, hands: Hands) -> None:
    client = connect()
    assert ask(client).json()["actor"] == house.session().actor.name
    add_user(house.session(), "ada")
    hands.now += sessions.KEPT_S
    said = ask(client)
    assert (said.status_code, said.json()["code"]) == (401, "not_signed_in")
    assert said.headers["www-authenticate"].startswith("Basic realm=")
    assert client.get("/healthz").status_code == 200, "whether it is up, anybody may ask"
    assert client.get("/api/v1/openapi.json").status_code == 401
    assert client.get("/nothing").status_code == 401
    assert client.post("/healthz", json={}).status_code == 401


def test_where_others_reach_it_nobody_is_taken_for_the_owner(connect: Connect) -> None:
    said = ask(connect(local=False))
    assert (said.status_code, said.json()["error"]) == (401, "This service has no users yet.")


def test_credentials_for_another_server_are_told_as_such(connect: Connect) -> None:
    for headers in (bearer("dapi0123456789"), basic("ada", "x")):
        said = ask(connect(), headers)
        assert (said.status_code, said.json()["error"]) == (401, "The request brings credentials, and this service has no users yet.")
        assert "unset MLFLOW_TRACKING_TOKEN" in said.json()["hint"]


def test_a_token_signs_in_and_its_use_is_noted(connect: Connect, house: House) -> None:
    add_user(house.session(), "ada")
    made = make_token(house.session(), "nightly", user="ada")
    said = ask(connect(), bearer(made.token))
    assert (said.status_code, said.json()["actor"]) == (200, "ada")
    assert list_tokens(house.session())[0].used_at == house.clock.now()


def test_what_was_taken_away_is_gone_within_a_second(connect: Connect, house: House, hands: Hands) -> None:
    owner = house.session()
    add_user(owner, "ada")
    add_user(owner, "bob")
    grant_role(owner, "bob", "editor")
    client = connect()
    made = [make_token(owner, label, user="bob") for label in ("one", "two", "three")]
    assert [client.post("/api/v1/pour", json={}, headers=bearer(token.token)).status_code for token in made] == [200] * 3
    revoke_token(owner, made[0].id)
    grant_role(owner, "bob", "viewer")
    hands.now += sessions.KEPT_S
    assert [client.post("/api/v1/pour", json={}, headers=bearer(token.token)).status_code for token in made] == [401, 403, 403]
    assert ask(client, bearer(made[1].token)).status_code == 200, "a viewer reads"
    disable_user(owner, "bob")
    hands.now += sessions.KEPT_S
    assert ask(client, bearer(made[1].token)).status_code == 401
    house.clock.advance(timedelta(days=91))  # type: ignore[attr-defined]  # a ManualClock


def test_a_token_runs_out_while_it_is_used(connect: Connect, house: House, hands: Hands) -> None:
    add_user(house.session(), "ada")
    token = make_token(house.session(), "nightly", user="ada", expires="1h").token
    client = connect()
    assert ask(client, bearer(token)).status_code == 200
    house.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]  # a ManualClock
    hands.now += 3600
    said = ask(client, bearer(token))
    assert (said.status_code, "expired" in said.json()["error"]) == (401, True)


def test_a_password_signs_in_and_is_hashed_once(connect: Connect, house: House, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    right = sessions.check_user

    def counted(records: Any, name: str, password: str) -> Any:
        checked.append(name)
        return right(records, name, password)

    monkeypatch.setattr(sessions, "check_user", counted)
    add_user(house.session(), "ada", password=GOOD)
    client = connect()
    for _ in range(3):
        assert ask(client, basic("ada", GOOD)).json()["actor"] == "ada"
        hands.now += 2 * sessions.KEPT_S
    assert checked == ["ada"]
    set_password(house.session(), "ada", password=OTHER)
    assert ask(client, basic("ada", GOOD)).status_code == 401
    assert ask(client, basic("ada", OTHER)).status_code == 200
    add_user(house.session(), "bea", admin=True)
    grant_role(house.session(), "bea", "owner")
    disable_user(house.session(), "ada")
    hands.now += sessions.KEPT_S
    assert ask(client, basic("ada", OTHER)).status_code == 401


@pytest.mark.parametrize(
    "said",
    [
        "Basic",
        "Basic !!!",
        "Basic YWRh",
        "Basic /w==",
        "Bearer",
        "Bearer a b",
        "Digest x",
        "Negotiate",
        "endcap_1_x",
        "Bearer endcap_%00_x",
        "Bearer ü",
    ],
)
def test_what_reads_as_no_credentials_is_refused(connect: Connect, house: House, said: str) -> None:
    add_user(house.session(), "ada")
    answer = connect().post(WHO, json=TEA, headers=[(b"authorization", said.encode("latin-1"))])  # type: ignore[arg-type]  # httpx takes pairs
    assert (answer.status_code, answer.json()["code"]) == (401, "not_signed_in")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])  # the fixture only makes hashes cheap
@given(st.binary(max_size=300), st.sampled_from([b"Bearer ", b"Bearer endcap_1_", b"Basic ", b"basic", b""]), st.booleans())
def test_whatever_is_sent_as_credentials_is_refused_in_the_house_s_words(said: bytes, scheme: bytes, encoded: bool) -> None:
    with open_house("memory://") as house:
        add_user(house.session(), "ada")
        head = {b"authorization": scheme + (base64.b64encode(said) if encoded else said)}
        with pytest.raises(RequestRefused) as refused:
            anyio.run(SignIn(house).sign_in, head, {"client": None})
        assert (refused.value.status, refused.value.error.code) == (401, "not_signed_in")


def test_a_workspace_is_the_tokens_or_named_by_a_header(connect: Connect, house: House) -> None:
    owner = house.session()
    add_user(owner, "ada", password=GOOD)
    grant_role(owner, "ada", "viewer", workspace="shoes")
    token = make_token(owner, "shoes", user="ada", workspace="shoes").token
    client, header = connect(), "X-Endcap-Workspace"

    def pour(headers: dict[str, str]) -> int:
        return int(client.post("/api/v1/pour", json={}, headers=headers).status_code)

    assert pour(bearer(token)) == 403, "viewer there"
    assert [row.outcome for row in list_audit(house.session(workspace="shoes"))][:1] == ["refused"]
    assert pour(basic("ada", GOOD)) == 200, "owner in default"
    assert pour(basic("ada", GOOD, **{header: "shoes"})) == 403
    for headers in (bearer(token, **{header: "default"}), basic("ada", GOOD, **{header: "hats"})):
        said = ask(client, headers)
        assert (said.status_code, said.json()["code"]) == (403, "permission_denied")
    for headers in (bearer(token, **{header: "_house"}), basic("ada", GOOD, **{header: "_house"})):
        assert ask(client, headers).status_code == 400


@pytest.mark.parametrize("name", ["_house", "../other", "%00", "x" * 300, "", "가나"])
def test_a_workspace_that_cannot_be_is_refused(connect: Connect, name: str) -> None:
    said = connect().post(WHO, json=TEA, headers=[(b"x-endcap-workspace", name.encode())])  # type: ignore[arg-type]  # the client takes pairs of bytes, too
    assert said.status_code == (200 if name == "" else 400)


def test_guesses_are_counted_told_and_audited_without_what_was_typed(connect: Connect, house: House, hands: Hands) -> None:
    add_user(house.session(), "ada", password=GOOD)
    client = connect()
    for _ in range(MOST_OF_PAIR):
        assert ask(client, basic("ada", "hunter2hunter2")).status_code == 401
    said = ask(client, basic("ada", GOOD))
    assert (said.status_code, said.headers["retry-after"]) == (429, f"{WINDOW_S:.0f}"), "the right one waits as well"
    hands.now += WINDOW_S
    assert ask(client, basic("ada", GOOD)).status_code == 200
    assert ask(client, basic("my password by mistake", "x")).status_code == 401
    rows = list_audit(house.session(), house=True)
    refused = [row for row in rows if row.verb == "sign-in"]
    assert [row.thing for row in refused] == ["house", *["user/ada"] * MOST_OF_PAIR]
    assert {(row.actor, row.outcome, row.detail["address"]) for row in refused} == {("nobody", "refused", "10.0.0.9")}
    assert "hunter2" not in repr(rows)
    assert "mistake" not in repr(rows)
    verify_audit(house.session(), house=True)


def test_whoever_signed_in_goes_on_while_others_guess(connect: Connect, house: House, hands: Hands) -> None:
    add_user(house.session(), "ada", password=GOOD)
    client = connect()
    assert ask(client, basic("ada", GOOD)).status_code == 200
    for _ in range(MOST_OF_PAIR):
        ask(client, basic("ada", "wrong"))
    hands.now += 2 * sessions.KEPT_S
    assert ask(client, basic("ada", GOOD)).status_code == 200
    assert ask(client, basic("ada", "wrong")).status_code == 429


def test_wrong_tokens_are_counted_by_address(connect: Connect, house: House) -> None:
    add_user(house.session(), "ada")
    client = connect()
    token = make_token(house.session(), "nightly", user="ada").token
    for _ in range(MOST_OF_ADDRESS):
        assert ask(client, bearer(token[:-1])).status_code == 401
    assert ask(client, bearer(token[:-1])).status_code == 429
    (row, *_) = list_audit(house.session(), house=True)
    assert row.thing.startswith("token/")
    assert token.split("_", 2)[2] not in repr(row)


@pytest.mark.parametrize("error", [StorageFull("No room."), Conflict("Another writes.")])
def test_where_nothing_can_be_written_people_still_read_and_strangers_are_still_refused(
    connect: Connect, house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: EndcapError
) -> None:
    add_user(house.session(), "ada")
    token = make_token(house.session(), "nightly", user="ada").token
    client = connect()

    def fails() -> Any:
        raise error

    monkeypatch.setattr(house.ports.records, "transact", fails)
    assert ask(client, bearer(token)).status_code == 200
    assert ask(client, bearer(token[:-1])).status_code == 401
    assert "a refused sign-in was not audited" in capsys.readouterr().err


def test_many_requests_at_once_with_one_password_are_one_check(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    right = sessions.check_user

    def counted(records: Any, name: str, password: str) -> Any:
        checked.append(name)
        return right(records, name, password)

    monkeypatch.setattr(sessions, "check_user", counted)
    add_user(house.session(), "ada", password=GOOD)
    signing_in = SignIn(house)
    head = read_head([(name.lower().encode(), value.encode()) for name, value in basic("ada", GOOD).items()])

    async def drive() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(4 * MOST_OF_PAIR):
                group.start_soon(signing_in.sign_in, head, {"client": ("10.0.0.1", 1)})

    anyio.run(drive)
    assert checked == ["ada"]


def test_many_guesses_at_once_are_no_more_than_many_in_turn(house: House) -> None:
    add_user(house.session(), "ada", password=GOOD)
    signing_in, statuses = SignIn(house), []

    async def guess(i: int) -> None:
        said = basic("ada", f"guess number {i}")["Authorization"].encode()
        try:
            await signing_in.sign_in({b"authorization": said}, {"client": ("10.0.0.1", 1)})
        except RequestRefused as refused:
            statuses.append(refused.status)

    async def drive() -> None:
        async with anyio.create_task_group() as group:
            for i in range(4 * MOST_OF_PAIR):
                group.start_soon(guess, i)

    anyio.run(drive)
    assert sorted(statuses) == [401] * MOST_OF_PAIR + [429] * 3 * MOST_OF_PAIR


def test_the_address_behind_a_proxy_is_what_the_proxy_says_and_nobody_before_it(house: House) -> None:
    behind, direct = SignIn(house, behind_proxy=True), SignIn(house)
    head = read_head([(b"x-forwarded-for", b"1.1.1.1, 2.2.2.2"), (b"x-forwarded-for", b"10.0.0.7")])
    assert behind.address_of(head, {"client": ("127.0.0.1", 1)}) == "10.0.0.7"
    assert behind.address_of({}, {"client": ("127.0.0.1", 1)}) == "proxy"
    assert direct.address_of(head, {"client": ("10.1.1.1", 1)}) == "10.1.1.1"
    assert direct.address_of(head, {}) == "unknown"


def test_what_is_kept_has_a_bound_and_holds_no_credentials(connect: Connect, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_MOST_KEPT", 2)
    owner = house.session()
    add_user(owner, "ada", password=GOOD)
    signing_in = SignIn(house)
    client = TestClient(build_application(house, folder=Path(), signing_in=signing_in), base_url="http://127.0.0.1:8420")
    tokens = [make_token(owner, f"token {i}", user="ada").token for i in range(5)]
    for headers in (*map(bearer, tokens), basic("ada", GOOD)):
        assert ask(client, headers).status_code == 200
    assert len(signing_in._kept) <= 2
    kept = repr((signing_in._kept.keys(), signing_in._right))
    assert GOOD not in kept
    assert not any(token.split("_", 2)[2] in kept for token in tokens)


def test_a_name_is_locked_after_many_wrong_passwords_whatever_process_and_address(connect: Connect, house: House, hands: Hands) -> None:
    add_user(house.session(), "ada", password=GOOD)
    made = make_token(house.session(), "nightly", user="ada").token

    def guess_everywhere(name: str) -> list[int]:
        """From ten addresses, each at a process of its own."""
        statuses = []
        for i in range(10):
            app = build_application(house, folder=Path(), signing_in=SignIn(house))
            client = TestClient(app, base_url="http://127.0.0.1:8420", client=(f"10.1.{i}.9", 5000))
            statuses += [ask(client, basic(name, f"guess {k}")).status_code for k in range(2)]
        return statuses

    for name in ("ada", "nobody-here"):
        assert guess_everywhere(name) == [401] * FREE + [429] * (20 - FREE), name
    client = connect()
    said = [ask(client, basic(name, GOOD)) for name in ("ada", "nobody-here")]
    assert [(answer.status_code, answer.json()) for answer in said] == [(429, said[0].json())] * 2, "the same words whoever it is"
    assert (said[0].json()["error"], said[0].headers["retry-after"]) == ("There were too many wrong passwords.", "60")
    assert ask(client, bearer(made)).status_code == 200, "tokens go on"
    rows = [row for row in list_audit(house.session(), house=True, limit=100) if row.verb == "lock-out"]
    assert [(row.thing, row.outcome, row.actor, row.detail["n_wrong"]) for row in rows] == [
        (thing, "refused", "nobody", FREE) for thing in ("house", "user/ada")
    ]
    house.clock.advance(FIRST_WAIT)  # type: ignore[attr-defined]  # a ManualClock
    assert ask(client, basic("ada", GOOD)).status_code == 200
    hands.now += sessions.KEPT_S
    assert guess_everywhere("ada") == [401] * FREE + [429] * (20 - FREE), "counted anew, and from elsewhere"
    assert ask(connect(), basic("ada", GOOD)).status_code == 200, "where she signed in before, she does"
    verify_audit(house.session(), house=True)


def test_a_flood_at_one_name_is_ended_by_an_admin(connect: Connect, house: House) -> None:
    add_user(house.session(), "ada", password=GOOD)
    for _ in range(FREE):
        begin_attempt(house.ports.records, "ada", network="10.0.0.9", now=house.clock.now())
    client = connect()
    assert ask(client, basic("ada", GOOD)).status_code == 429
    unlock_user(house.session(), "ada")
    assert ask(client, basic("ada", GOOD)).status_code == 200


def test_a_service_that_others_reach_gets_its_first_owner_by_the_code_alone(house: House, tmp_path: Path, hands: Hands) -> None:
    app = build_application(house, folder=tmp_path, signing_in=SignIn(house, local=False, guesses=Guesses(hands)))
    client = TestClient(app, base_url="http://127.0.0.1:8420", raise_server_exceptions=False, client=("10.0.0.9", 5000))
    code = make_setup_code(house.session()).code
    said = client.post("/api/v1/setup", json={"code": code[:-1], "name": "eve", "password": GOOD})
    assert (said.status_code, said.json()["error"]) == (401, "The set-up code is wrong, was used, or has expired.")
    assert client.get("/api/v1/setup").status_code == 401
    for path in ("/api/v1/users/ls", "/api/v1/setup-code", "/api/v1/setup/", "/api/v1//setup"):
        assert client.post(path, json={}).status_code == 401, "nothing else is open to a stranger"
    assert client.post("/api/v1/setup", json={"code": code, "name": "eve", "password": "x" * 20_000}).status_code == 413
    assert client.post("/api/v1/setup", json={"code": code, "name": "eve", "admin": True}).status_code == 400
    assert client.post("/api/v1/setup", data={"code": code}).status_code == 415, "no form of another site"
    assert client.post("/api/v1/setup", json={}, headers={"Origin": "https://evil.example"}).status_code == 403
    said = client.post("/api/v1/setup", json={"code": code, "name": "ada", "password": GOOD})
    assert (said.status_code, said.json()["roles"]) == (200, {"default": "owner"})
    assert client.get("/api/v1/users/ls").status_code == 401, "a stranger stays one"
    assert client.get("/api/v1/users/ls", headers=basic("ada", GOOD)).json()[0]["name"] == "ada"
    assert client.post("/api/v1/setup", json={"code": code, "name": "eve", "password": OTHER}).status_code == 409
    statuses = [client.post("/api/v1/setup", json={"code": code, "name": "eve", "password": OTHER}).status_code for _ in range(MOST_OF_ADDRESS)]
    assert statuses.count(429) > 0
    assert statuses == sorted(statuses), "and then they wait"
    rows = list_audit(house.session(), house=True, limit=200)
    assert code.split("_", 2)[2] not in repr(rows)
    assert GOOD not in repr(rows)


def test_the_audit_of_strangers_has_a_bound(house: House, tmp_path: Path, hands: Hands) -> None:
    make_setup_code(house.session())
    app = build_application(house, folder=tmp_path, signing_in=SignIn(house, local=False, guesses=Guesses(hands)))
    clients = [TestClient(app, base_url="http://127.0.0.1:8420", client=(f"10.0.{i}.9", 5000)) for i in range(MOST_AUDITED // MOST_OF_ADDRESS + 2)]
    statuses = [client.post("/api/v1/setup", json={"code": "x", "name": "eve"}).status_code for client in clients for _ in range(MOST_OF_ADDRESS)]
    assert (statuses.count(401), set(statuses)) == (MOST_AUDITED, {401, 429})


def test_what_a_group_gave_is_gone_within_a_second_by_token_and_by_password(connect: Connect, house: House, hands: Hands) -> None:
    owner = house.session()
    add_user(owner, "ada")
    add_user(owner, "bob", password=GOOD)
    add_group(owner, "demand")
    join_group(owner, "demand", "bob")
    grant_group(owner, "demand", "editor")
    client, token = connect(), make_token(owner, "nightly", user="bob").token
    both = (bearer(token), basic("bob", GOOD))
    assert [client.post("/api/v1/pour", json={}, headers=headers).status_code for headers in both] == [200, 200]
    for change, statuses in (
        (lambda: grant_group(owner, "demand", "viewer"), [403, 403]),
        (lambda: grant_role(owner, "bob", "editor"), [200, 200]),
        (lambda: grant_role(owner, "bob", "none"), [403, 403]),
        (lambda: grant_group(owner, "demand", "editor"), [200, 200]),
        (lambda: leave_group(owner, "demand", user="bob"), [403, 403]),
    ):
        change()
        hands.now += sessions.KEPT_S
        assert [client.post("/api/v1/pour", json={}, headers=headers).status_code for headers in both] == statuses
    assert [ask(client, headers).status_code for headers in both] == [403, 403], "without a role nothing is read, either"


def test_a_rotated_token_opens_for_the_overlap_and_is_refused_and_audited_after(connect: Connect, house: House, hands: Hands) -> None:
    owner = house.session()
    add_user(owner, "ada")
    old = make_token(owner, "nightly", user="ada")
    new = rotate_token(owner, old.id, overlap="1h")
    client = connect()
    assert [ask(client, bearer(token)).status_code for token in (old.token, new.token)] == [200, 200]
    house.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]  # a ManualClock
    hands.now += 3600
    assert [ask(client, bearer(token)).status_code for token in (old.token, new.token)] == [401, 200]
    row = list_audit(owner, house=True, limit=1)[0]
    assert (row.verb, row.thing, row.outcome) == ("sign-in", f"token/{old.id}", "refused")
    used = {line.id: line.used_at for line in list_tokens(owner)}
    assert None not in used.values(), "the last use of both is shown"

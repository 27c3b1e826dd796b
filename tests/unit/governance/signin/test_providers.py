from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from endcap.core.errors import Conflict, EndcapError, InvalidInput, NotFound, PermissionDenied, Unreachable
from endcap.core.settings import Settings
from endcap.governance.audit import list_audit
from endcap.governance.keys.rotation import rotate_keys
from endcap.governance.people import add_user
from endcap.governance.records import HOUSE
from endcap.governance.sessions import Session
from endcap.governance.signin.identities import identify, link_identity, list_links, unlink_identity
from endcap.governance.signin.providers import add_provider, find_provider, list_providers, open_secret, remove_provider
from endcap.governance.signin.records import PROVIDERS
from endcap.project.sealing import rewrap
from endcap.testing.oidc_providers import CLIENT, SECRET, Provider
from endcap.testing.sessions import make_session


@pytest.fixture
def session() -> Session:
    made = replace(make_session(actor="root"), settings=Settings(provider_hosts=("127.0.0.1",)))
    add_user(made, "ada")
    return made


@pytest.fixture
def issuer(provider_process: Provider) -> str:
    provider_process.tell()
    return provider_process.issuer


def add(session: Session, issuer: str, **given: Any) -> Any:
    return add_provider(session, "corp", **{"issuer": issuer, "client_id": CLIENT, "password": SECRET, **given})


def test_a_provider_is_added_with_what_it_says_of_itself(session: Session, issuer: str) -> None:
    line = add(session, issuer, scopes=["groups", "openid", "groups"], groups_claim="groups", name_claim="email", lets_in=True)
    assert list_providers(session) == [line]
    assert (line.scopes, line.lets_in, line.made_by) == (("openid", "groups"), True, "root")
    kept = find_provider(session.records, "corp")
    assert (kept.token_endpoint, kept.algorithms, kept.names_itself) == (f"{issuer}/token", ("RS256", "ES256"), True), "HS256 and none are not taken"
    assert open_secret(session, kept) == SECRET
    row = list_audit(session, house=True)[0]
    assert (row.verb, row.thing, row.detail) == ("providers add", "provider/corp", {"issuer": issuer, "lets_in": True})
    with pytest.raises(Conflict, match="stands already"):
        add(session, issuer)


def test_a_secret_is_of_its_provider_alone(session: Session, issuer: str) -> None:
    """A sealed secret that somebody moves to a provider of their own does not open there."""
    add(session, issuer)
    kept = find_provider(session.records, "corp")
    with pytest.raises(EndcapError):
        open_secret(session, msgspec.structs.replace(kept, name="mine"))


def test_one_that_was_removed_may_be_added_again(session: Session, issuer: str) -> None:
    add(session, issuer)
    remove_provider(session, "corp")
    assert list_providers(session) == []
    gone = session.records.get(PROVIDERS, workspace=HOUSE, id="corp")
    assert gone is not None
    assert (gone.secret, gone.removed_by) == (b"", "root")
    with pytest.raises(NotFound, match="no provider 'corp'"):
        remove_provider(session, "corp")
    add(session, issuer, client_id="another")
    assert [line.client_id for line in list_providers(session)] == ["another"]
    assert [line.name for line in list_providers(session)] == ["corp"]


def test_only_admins_keep_providers(session: Session, issuer: str) -> None:
    owner = replace(session, admin=False)
    for call in (
        lambda: add(owner, issuer),
        lambda: remove_provider(owner, "corp"),
        lambda: link_identity(owner, "corp", "1", "ada"),
        lambda: unlink_identity(owner, "corp", "ada"),
        lambda: list_links(owner),
    ):
        with pytest.raises(PermissionDenied, match="does not administer the house"):
            call()
    asked = [row.verb for row in list_audit(session, house=True, outcome="refused")]
    assert asked == ["providers links", "providers unlink", "providers link", "providers remove", "providers add"]


@pytest.mark.parametrize(
    "url",
    [
        "http://login.example.com",
        "https://10.0.0.5",
        "https://localhost",
        "https://169.254.169.254/latest",
        "ftp://x.example",
        "",
        "https://a:b@x.example",
    ],
)
def test_an_address_inside_or_without_tls_is_not_asked(session: Session, url: str) -> None:
    pytest.importorskip("authlib")
    strict = replace(session, settings=Settings())
    with pytest.raises((InvalidInput, PermissionDenied)) as refused:
        add(strict, url)
    if isinstance(refused.value, PermissionDenied):
        assert "ENDCAP_PROVIDER_HOSTS" in str(refused.value)
        row = list_audit(session, house=True)[0]
        assert (row.verb, row.outcome) == ("providers add", "refused")
    assert list_providers(session) == []


def test_the_own_network_is_opened_by_its_own_setting(session: Session, issuer: str) -> None:
    """Hosts that webhooks may reach may not say who somebody is."""
    with pytest.raises(PermissionDenied, match="not on the public internet"):
        add(replace(session, settings=Settings(webhook_hosts=("127.0.0.1",))), issuer)


@pytest.mark.parametrize(
    ("document", "what"),
    [
        ({"issuer": "https://evil.example"}, "is of the issuer 'https://evil.example'"),
        ({"issuer": None}, "does not read"),
        ({"token_endpoint": None}, "does not read"),
        ({"token_endpoint": "http://10.0.0.5/token"}, "not on the public internet"),
        ({"jwks_uri": "file:///etc/passwd"}, "begins with https"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "begins with https"),
        ({"userinfo_endpoint": "https://metadata.google.internal/"}, "not on the public internet"),
        ({"id_token_signing_alg_values_supported": ["HS256", "none"]}, "signs by"),
        ({"response_types_supported": ["id_token"]}, "authorization code flow"),
        ({"code_challenge_methods_supported": ["plain"]}, "PKCE"),
        ({"token_endpoint_auth_methods_supported": ["private_key_jwt"]}, "takes secrets by"),
    ],
)
def test_a_document_that_will_not_do_is_told(session: Session, provider_process: Provider, document: dict[str, Any], what: str) -> None:
    provider_process.tell(document=document)
    with pytest.raises((InvalidInput, PermissionDenied), match=what):
        add(session, provider_process.issuer)
    assert list_providers(session) == []


def test_a_client_without_a_secret_needs_a_provider_that_takes_it(session: Session, provider_process: Provider) -> None:
    provider_process.tell()
    with pytest.raises(InvalidInput, match="wants a secret"):
        add(session, provider_process.issuer, password=None)
    provider_process.tell(document={"token_endpoint_auth_methods_supported": ["none"]})
    assert add(session, provider_process.issuer, password=None).name == "corp"


def test_a_secret_that_is_taken_in_the_body_alone(session: Session, provider_process: Provider) -> None:
    provider_process.tell(document={"token_endpoint_auth_methods_supported": ["client_secret_post"]})
    add(session, provider_process.issuer)
    assert find_provider(session.records, "corp").by_post


def test_where_there_is_no_provider_it_is_told(session: Session, issuer: str) -> None:
    with pytest.raises(Unreachable, match="status 404"):
        add(session, f"{issuer}/realms/shop")
    with pytest.raises(InvalidInput, match="holds a query"):
        add(session, f"{issuer}?tenant=a")
    with pytest.raises(Unreachable, match="does not answer"):
        add(session, "http://127.0.0.1:9")


@pytest.mark.parametrize(
    "given",
    [
        {"client_id": ""},
        {"client_id": "x" * 300},
        {"client_id": "a\nb"},
        {"name_claim": ""},
        {"scopes": ["a b"]},
        {"scopes": ['"']},
        {"scopes": ["\u00e9"]},
        {"groups_claim": "\u0000"},
        {"password": "geheim\u00fc"},
    ],
)
def test_what_a_provider_cannot_be_added_with(session: Session, issuer: str, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as told:
        add(session, issuer, **given)
    assert "geheim" not in str(told.value)


@pytest.mark.parametrize("name", ["../other", "%00", "x" * 300, "\ud55c\uae00", "\U0001f600", ""])
def test_names_of_providers_are_names(session: Session, issuer: str, name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be the name of a provider"):
        add_provider(session, name, issuer=issuer, client_id=CLIENT)


def test_people_are_linked_and_unlinked_by_subject(session: Session, issuer: str) -> None:
    add(session, issuer)
    link = link_identity(session, "corp", "1234", "ada")
    assert list_links(session, provider="corp") == [link]
    with pytest.raises(Conflict, match="is the user 'ada' already"):
        link_identity(session, "corp", "1234", "ada")
    for values, error in (
        (("other", "1", "ada"), NotFound),
        (("corp", "1", "eve"), NotFound),
        (("corp", "", "ada"), InvalidInput),
        (("corp", "x" * 256, "ada"), InvalidInput),
        (("corp", "a\nb", "ada"), InvalidInput),
    ):
        with pytest.raises(error):
            link_identity(session, *values)
    assert [gone.subject for gone in unlink_identity(session, "corp", "ada")] == ["1234"]
    assert list_links(session) == []
    with pytest.raises(NotFound, match="linked to a user 'ada'"):
        unlink_identity(session, "corp", "ada")
    assert link_identity(session, "corp", "1234", "ada").user == "ada"
    assert not any("1234" in str(row.detail) for row in list_audit(session, house=True)), "rows hold digests"


def test_issuer_and_subject_are_not_run_together() -> None:
    assert identify("https://a.example", "b") != identify("https://a.example\nb", "")
    assert identify('https://a.example","', "b") != identify("https://a.example", '","b')


def test_a_secret_is_sealed_anew_with_the_rest_after_its_key_was_rotated(session: Session, issuer: str) -> None:
    add(session, issuer)
    before = find_provider(session.records, "corp")
    rotate_keys(session, house=True)
    assert rewrap(session, house=True).n_records == 1
    after = find_provider(session.records, "corp")
    assert (after.secret != before.secret, open_secret(session, after)) == (True, SECRET)

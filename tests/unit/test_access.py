"""Keys and workspaces are a fold of facts: what opens, what does not, and what a repeat cannot change."""

import pytest

from shared.access import (
    ADMIN,
    KEY_RANDOM_BYTES,
    KEY_TEXT_LENGTH,
    READ,
    SECRET_KEY,
    WRITE,
    WRITE_KEY,
    Access,
    MissingScope,
    new_key,
)
from shared.errors import InvalidField
from shared.events import PUBLIC, SECRET, KeyCreated, KeyRevoked, LeafErased, SealingKeyDestroyed, WorkspaceDefined

SHOP = WorkspaceDefined("shop", "Asia/Tehran", "IR", "0001", b"p" * 32, 1)


def random_bytes(seed: int) -> bytes:
    return bytes((seed + i) % 256 for i in range(KEY_RANDOM_BYTES))


def made(kind: str = WRITE_KEY, scopes: tuple[str, ...] = (WRITE,), seed: int = 1) -> tuple[KeyCreated, str]:
    return new_key(kind, "shop", "website", scopes, "", 5, random_bytes(seed))


def folded(*facts: object) -> Access:
    access = Access()
    for fact in facts:
        access = access.evolve(fact)  # type: ignore[arg-type]
    return access


def test_a_key_opens_with_its_whole_text_only() -> None:
    fact, text = made()
    access = folded(SHOP, fact)
    key = access.key(text)
    assert key is not None
    assert (key.workspace, key.source, key.trust, key.scopes) == ("shop", "website", PUBLIC, {WRITE})
    assert text.startswith("rk_w_")
    assert len(text) == KEY_TEXT_LENGTH
    odd = [
        "",
        "rk",
        "_" * 84,
        text[:-1],
        text + "0",
        text[:-1] + "x",
        text.replace("rk_w", "rk_s"),
        text.upper(),
        "ü" * 86,
    ]
    assert [one for one in odd if access.key(one) is not None] == []


def test_every_single_changed_character_is_refused() -> None:
    fact, text = made()
    access = folded(SHOP, fact)
    for at in range(len(text)):
        changed = text[:at] + ("1" if text[at] != "1" else "2") + text[at + 1 :]
        assert access.key(changed) is None, at


def test_only_the_hash_of_the_secret_is_in_the_fact() -> None:
    fact, text = made()
    secret = text.rsplit("_", 1)[1]
    assert secret not in repr(fact)
    assert bytes.fromhex(secret) not in fact.digest
    assert secret not in repr(folded(SHOP, fact).key(text))


def test_a_revoked_key_opens_nothing_and_stays_listed() -> None:
    fact, text = made()
    access = folded(SHOP, fact, KeyRevoked("shop", fact.key_id, 9))
    assert access.key(text) is None
    assert [key.revoked_at for key in access.keys_of("shop")] == [9]
    assert access.evolve(KeyRevoked("shop", fact.key_id, 12)).keys[fact.key_id].revoked_at == 9


def test_another_workspace_cannot_revoke_or_take_over_a_key() -> None:
    fact, text = made()
    access = folded(SHOP, fact, KeyRevoked("other", fact.key_id, 9))
    assert access.key(text) is not None
    forged = KeyCreated("other", fact.key_id, b"x" * 32, SECRET_KEY, "s", (ADMIN,), "", 1)
    assert access.evolve(forged).key(text) == access.key(text)


def test_a_key_of_an_unknown_workspace_opens_nothing() -> None:
    fact, text = made()
    assert folded(fact).key(text) is None


def test_scopes_are_asked_for_by_name() -> None:
    fact, text = made(SECRET_KEY, (READ, WRITE))
    key = folded(SHOP, fact).key(text)
    assert key is not None
    assert key.require(READ) is key
    assert key.trust == SECRET
    with pytest.raises(MissingScope, match="admin"):
        key.require(ADMIN)


def test_a_write_key_never_has_more_than_write() -> None:
    with pytest.raises(InvalidField, match="write key is public"):
        made(WRITE_KEY, (WRITE, READ))
    forged = KeyCreated("shop", "k", b"x" * 32, WRITE_KEY, "s", (WRITE, ADMIN), "", 1)
    assert folded(SHOP, forged).keys["k"].scopes == {WRITE}


@pytest.mark.parametrize(
    ("kind", "source", "scopes", "field"),
    [
        ("public", "web", (WRITE,), "kind"),
        (SECRET_KEY, "", (READ,), "source"),
        (SECRET_KEY, "web", ("root",), "scopes"),
        (SECRET_KEY, "web", (), "scopes"),
    ],
)
def test_a_wrong_wish_names_its_field(kind: str, source: str, scopes: tuple[str, ...], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        new_key(kind, "shop", source, scopes, "", 1, random_bytes(1))
    assert caught.value.field == field


def test_too_little_randomness_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="40 random bytes"):
        new_key(WRITE_KEY, "shop", "web", (WRITE,), "", 1, b"short")


def test_a_workspace_keeps_its_time_zone_and_follows_its_sealing_key() -> None:
    again = WorkspaceDefined("shop", "UTC", "DE", "0002", b"q" * 32, 99)
    workspace = folded(SHOP, again).workspaces["shop"]
    assert (workspace.time_zone, workspace.created_at) == ("Asia/Tehran", 1)
    assert (workspace.region, workspace.sealing_key, workspace.sealing_public) == ("DE", "0002", b"q" * 32)


def test_other_facts_change_nothing_and_evolve_is_pure() -> None:
    fact, _ = made()
    access = folded(SHOP, fact)
    assert access.evolve(LeafErased("shop", b"", b"", 1)) is access
    access.evolve(KeyRevoked("shop", fact.key_id, 9))
    assert access.keys[fact.key_id].revoked_at is None


def test_sealing_keys_have_a_history_and_a_destroyed_one_stays_destroyed() -> None:
    """The one in use cannot be destroyed; a key that was told before does not come back as another."""
    second = WorkspaceDefined("shop", "UTC", "IR", "0002", b"q" * 32, 50)
    access = Access().evolve(SHOP).evolve(second)
    keys = access.workspaces["shop"].sealing_keys
    assert [(key.name, key.since, key.until) for key in keys] == [("0001", 1, 50), ("0002", 50, None)]
    assert access.evolve(SealingKeyDestroyed("shop", "0002", 60)) == access
    assert access.evolve(SealingKeyDestroyed("nobody", "0001", 60)) == access
    gone = access.evolve(SealingKeyDestroyed("shop", "0001", 60)).evolve(SealingKeyDestroyed("shop", "0001", 99))
    assert gone.workspaces["shop"].destroyed_keys == {"0001"}
    assert gone.workspaces["shop"].sealing_keys[0].destroyed_at == 60
    assert gone.evolve(second).workspaces["shop"].sealing_keys == gone.workspaces["shop"].sealing_keys
    assert gone.workspaces["shop"].created_at == 1

"""Keys over REST: who may do what, in which workspace, and that a secret is shown once and nowhere else."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from services.ingest.openapi import describe_events
from shared.access import ADMIN, READ, SECRET_KEY, WRITE, WRITE_KEY
from shared.codec import encode
from shared.topics import DEFINITIONS
from tests.service.ingest_house import House, house, track

OPEN_ROUTES = [("GET", "/livez"), ("GET", "/readyz"), ("GET", "/metrics"), ("GET", "/docs"), ("GET", "/openapi.json")]
ADMIN_ROUTES = [("POST", "/v1/keys"), ("GET", "/v1/keys"), ("DELETE", "/v1/keys/none")]
WRITE_ROUTES = [("POST", "/v1/track"), ("POST", "/v1/batch"), ("POST", "/v1/touchpoints")]
HISTORY_ROUTES = [("POST", "/v1/imports"), ("GET", "/v1/imports"), ("POST", "/v1/imports/none/finish")]


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as made:
        yield made


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def status(door: House, method: str, path: str, key: str) -> int:
    body = {"/v1/keys": {"kind": "write", "source": "x"}, "/v1/batch": {"batch": [track()]}}.get(path, track())
    if path == "/v1/touchpoints":
        body = {"kind": "page_viewed", "anonymous_id": "a", "id": "1"}
    headers = bearer(key) if key else {}
    answer = await door.client.request(method, path, json=body if method == "POST" else None, headers=headers)
    if answer.status_code >= 400:
        assert {"code", "message", "detail"} <= set(answer.json())
    return answer.status_code


async def test_every_route_with_every_kind_of_key(door: House) -> None:
    revoked = await door.key(SECRET_KEY, [WRITE, READ, ADMIN], seed=60)
    made = revoked.split("_")[2]
    assert (await door.client.delete(f"/v1/keys/{made}", headers=bearer(door.secret_key))).status_code == 200
    keys = {
        "none": "",
        "unknown": door.secret_key[:-1] + "x",
        "revoked": revoked,
        "write": door.write_key,
        "reader": await door.key(SECRET_KEY, [READ], seed=61),
        "writer": await door.key(SECRET_KEY, [WRITE], seed=62),
        "admin": await door.key(SECRET_KEY, [ADMIN], seed=63),
    }
    refused = {"none": 401, "unknown": 401, "revoked": 401}
    expected = {
        "open": dict.fromkeys(keys, 200),
        "admin": {**dict.fromkeys(keys, 403), **refused, "admin": 200},
        "write": {**dict.fromkeys(keys, 403), **refused, "write": 200, "writer": 200},
        "history": {**dict.fromkeys(keys, 403), **refused, "writer": 200},
    }
    groups = {"open": OPEN_ROUTES, "admin": ADMIN_ROUTES, "write": WRITE_ROUTES, "history": HISTORY_ROUTES}
    for group, routes in groups.items():
        for method, path in routes:
            for name, key in keys.items():
                wanted = expected[group][name]
                seen = await status(door, method, path, key)
                assert seen == (404 if "none" in path and wanted == 200 else wanted), (method, path, name, seen)


def test_the_matrix_knows_every_route() -> None:
    known = {path for _, path in OPEN_ROUTES + ADMIN_ROUTES + WRITE_ROUTES + HISTORY_ROUTES}
    same_as_track = {"/v1/identify", "/v1/page", "/v1/screen", "/v1/group", "/v1/alias"}
    documented = set(FastAPI().openapi()["paths"])
    app = FastAPI()
    describe_events(app)
    assert set(app.openapi()["paths"]) - documented <= known | same_as_track


async def test_a_key_is_shown_once_and_works_at_once(door: House) -> None:
    wish = {"kind": "secret", "source": "crm", "scopes": ["read", "write"], "label": "for the CRM"}
    made = (await door.client.post("/v1/keys", json=wish, headers=bearer(door.secret_key))).json()
    assert made["key"].startswith("rk_s_")
    assert await status(door, "POST", "/v1/track", made["key"]) == 200
    listed = await door.client.get("/v1/keys", headers=bearer(door.secret_key))
    secret = made["key"].rsplit("_", 1)[1]
    assert secret not in listed.text
    assert made["key_id"] in listed.text
    facts = b"".join(encode(fact) for fact in await door.facts(DEFINITIONS))  # type: ignore[arg-type]
    assert secret.encode() not in facts
    assert bytes.fromhex(secret) not in facts


async def test_a_revoked_key_stops_at_once_and_revoking_again_is_quiet(door: House) -> None:
    key = await door.key(WRITE_KEY, [WRITE], seed=70)
    for _ in range(2):
        answer = await door.client.delete(f"/v1/keys/{key.split('_')[2]}", headers=bearer(door.secret_key))
        assert answer.status_code == 200
        assert answer.json()["revoked_at"] is not None
    assert await status(door, "POST", "/v1/track", key) == 401


async def test_the_last_admin_key_cannot_lock_everybody_out(door: House) -> None:
    answer = await door.client.delete(f"/v1/keys/{door.secret_key.split('_')[2]}", headers=bearer(door.secret_key))
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


async def test_workspaces_do_not_see_each_other(door: House) -> None:
    rival = await door.key(SECRET_KEY, [ADMIN, WRITE], workspace="rival", seed=80)
    listed = (await door.client.get("/v1/keys", headers=bearer(rival))).json()["keys"]
    assert [key["key_id"] for key in listed] == [rival.split("_")[2]]
    ours = door.write_key.split("_")[2]
    foreign = await door.client.delete(f"/v1/keys/{ours}", headers=bearer(rival))
    missing = await door.client.delete("/v1/keys/0000000000000000", headers=bearer(rival))
    assert (foreign.status_code, foreign.content) == (missing.status_code, missing.content) == (404, missing.content)
    started = (await door.client.post("/v1/imports", headers=bearer(door.secret_key))).json()["import_id"]
    assert (await door.client.get("/v1/imports", headers=bearer(rival))).json() == {"imports": []}
    assert (await door.client.post(f"/v1/imports/{started}/finish", headers=bearer(rival))).status_code == 404


@pytest.mark.parametrize(
    "wish",
    [
        {"kind": "write"}, {"kind": "root", "source": "x"}, {"kind": "write", "source": "x", "workspace": "rival"},
        {"kind": "secret", "source": "x", "scopes": ["all"]}, {"kind": "write", "source": "x", "scopes": ["read"]},
        {"kind": "write", "source": ""}, {"kind": "secret", "source": "x", "scopes": "admin"}, [], None, "x",
    ],
)  # fmt: skip
async def test_a_wrong_wish_is_refused_flat_without_an_echo(door: House, wish: object) -> None:
    answer = await door.client.post("/v1/keys", json=wish, headers=bearer(door.secret_key))
    assert answer.status_code in (400, 422)
    assert {"code", "message", "detail"} <= set(answer.json())
    assert "input" not in answer.json()


async def test_rest_refuses_bodies_over_its_bound(door: House) -> None:
    answer = await door.client.post("/v1/keys", content=b" " * ((1 << 20) + 1), headers=bearer(door.secret_key))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_admin_routes_have_no_cors_and_answers_have_security_headers(door: House) -> None:
    answer = await door.client.get("/v1/keys", headers=bearer(door.secret_key) | {"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]

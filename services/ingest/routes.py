"""What the door serves through FastAPI: keys, imports, and the settings answer browser SDKs start with."""

import os
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from services.ingest.imports import Import, Imports
from shared.access import ADMIN, KEY_RANDOM_BYTES, SECRET_KEY, WRITE, WRITE_KEY, Key, MissingScope, new_key
from shared.clock import Clock
from shared.codec import encode
from shared.definitions import DefinitionsFeed
from shared.errors import Conflict, NotFound
from shared.events import Fact, KeyRevoked
from shared.httpd import Auth, json_response, problem
from shared.log.port import Log, Outgoing
from shared.topics import DEFINITIONS

Name = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[\w.\- ]+$")]
Scope = Literal["write", "read", "act", "admin"]


class NewKey(BaseModel):
    """A key to make."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"kind": "write", "source": "website"}]})

    kind: Literal["write", "secret"] = Field(description="`write` is public and only appends; `secret` has scopes")
    source: Name = Field(description="what sends with it; repeats are recognised inside one source")
    scopes: list[Scope] | None = Field(None, description="of a secret key; default: write and read")
    label: Annotated[str, StringConstraints(max_length=200)] = Field("", description="a note for people")


class KeyShown(BaseModel):
    """A key without its secret."""

    key_id: str
    kind: str
    source: str
    scopes: list[str]
    label: str
    created_at: datetime
    revoked_at: datetime | None


class KeyMade(KeyShown):
    """A new key: `key` is shown this once and kept nowhere."""

    key: str


class Keys(BaseModel):
    """All keys of the workspace, oldest first, revoked ones too."""

    keys: list[KeyShown]


class ImportShown(BaseModel):
    """A history import. `idle`: the door closed it because nothing came for an hour."""

    import_id: str
    state: Literal["open", "closing", "closed"]
    source: str
    started_at: datetime
    closed_at: datetime | None
    idle: bool


class ImportsShown(BaseModel):
    """All imports of the workspace, oldest first."""

    imports: list[ImportShown]


def key_routes(log: Log, feed: DefinitionsFeed, clock: Clock, auth: Auth) -> APIRouter:
    """`/v1/keys`: make, list, revoke. Needs the scope `admin`; sees its own workspace only."""
    router = APIRouter(prefix="/v1/keys", tags=["keys"])
    admin = Depends(auth.needs(ADMIN))

    async def say(fact: Fact) -> None:
        [position] = await log.append(DEFINITIONS, [Outgoing(0, encode(fact))])
        await feed.reached(position)

    @router.post("", summary="Make a key; its text is shown this once.")
    async def create(wanted: NewKey, key: Annotated[Key, admin]) -> KeyMade:
        scopes = tuple(wanted.scopes or ((WRITE,) if wanted.kind == WRITE_KEY else (WRITE, "read")))
        now, random = clock.now_ms(), os.urandom(KEY_RANDOM_BYTES)
        fact, text = new_key(wanted.kind, key.workspace, wanted.source, scopes, wanted.label, now, random)
        await say(fact)
        shown = KeyShown(
            key_id=fact.key_id,
            kind=fact.kind,
            source=fact.source,
            scopes=list(fact.scopes),
            label=fact.label,
            created_at=_moment(fact.created_at),
            revoked_at=None,
        )
        return KeyMade(**shown.model_dump(), key=text)

    @router.get("", summary="List the keys of the workspace.")
    async def listed(key: Annotated[Key, admin]) -> Keys:
        return Keys(keys=[_key_shown(one) for one in feed.access.keys_of(key.workspace)])

    @router.delete("/{key_id}", summary="Revoke a key: it opens nothing any more.")
    async def revoke(key_id: str, key: Annotated[Key, admin]) -> KeyShown:
        keys = feed.access.keys_of(key.workspace)
        found = next((one for one in keys if one.key_id == key_id), None)
        if found is None:
            raise NotFound("no such key in this workspace")
        if found.revoked_at is None:
            if _admins(keys) == [key_id]:
                raise Conflict("this is the last key with the scope `admin`; make another one first")
            await say(KeyRevoked(key.workspace, key_id, clock.now_ms()))
        return _key_shown(feed.access.keys[key_id])

    return router


def import_routes(imports: Imports, auth: Auth) -> APIRouter:
    """`/v1/imports`: history that must raise no alert about the past. Needs a secret key with the scope `write`."""
    router = APIRouter(prefix="/v1/imports", tags=["imports"])
    writer = Depends(auth.needs(WRITE))

    @router.post("", summary="Start a history import; send its touchpoints with this `import_id`.")
    async def start(key: Annotated[Key, writer]) -> ImportShown:
        return _import_shown(await imports.start(_secret(key).workspace, key.source))

    @router.get("", summary="List the history imports of the workspace.")
    async def listed(key: Annotated[Key, writer]) -> ImportsShown:
        return ImportsShown(imports=[_import_shown(one) for one in imports.of(_secret(key).workspace)])

    @router.post("/{import_id}/finish", summary="Finish it: its customers are decided once all of it is folded.")
    async def finish(import_id: str, key: Annotated[Key, writer]) -> ImportShown:
        return _import_shown(await imports.finish(_secret(key).workspace, import_id))

    return router


def settings_routes(feed: DefinitionsFeed, public_url: str) -> APIRouter:
    """What Segment's browser SDK asks for first; without it `track` resolves and nothing is ever sent."""
    router = APIRouter(tags=["events"])

    @router.get("/v1/projects/{write_key}/settings", summary="Settings of a Segment browser source.")
    async def settings(write_key: str, request: Request) -> Response:
        headers = {"cache-control": "no-store", "access-control-allow-origin": "*"}
        if feed.access.key(write_key) is None:
            return json_response(problem("not_found", "no such write key"), 404, headers)
        protocol, _, host = (public_url or str(request.base_url)).rstrip("/").partition("://")
        destination = {"apiKey": write_key, "apiHost": f"{host}/v1", "protocol": protocol}
        answer = {"integrations": {"Segment.io": destination}, "metrics": {"sampleRate": 0}}
        return json_response(answer, headers=headers)

    return router


def _secret(key: Key) -> Key:
    if key.kind != SECRET_KEY:
        raise MissingScope("history comes with a secret key only")
    return key


def _admins(keys: list[Key]) -> list[str]:
    return [key.key_id for key in keys if key.revoked_at is None and ADMIN in key.scopes]


def _key_shown(key: Key) -> KeyShown:
    return KeyShown(
        key_id=key.key_id,
        kind=key.kind,
        source=key.source,
        scopes=sorted(key.scopes),
        label=key.label,
        created_at=_moment(key.created_at),
        revoked_at=None if key.revoked_at is None else _moment(key.revoked_at),
    )


def _import_shown(one: Import) -> ImportShown:
    return ImportShown(
        import_id=one.import_id,
        state=one.state,
        source=one.source,
        started_at=_moment(one.started_at),
        closed_at=None if one.closed_at is None else _moment(one.closed_at),
        idle=one.idle,
    )


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)

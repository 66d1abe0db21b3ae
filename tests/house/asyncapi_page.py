"""`docs/reference/asyncapi.json`: every topic, its key and its messages as JSON Schema, from the facts themselves.

A fact lies on the log as msgpack `[name, version, body]`; bodies are arrays whose places are named by `title`. What
scoring says lies there as CloudEvents in JSON, and comes by server-sent events too.
"""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from services.scoring.domain.told import ChurnAlertEvent, CustomerErasedEvent, SegmentChangeEvent
from shared.events import (
    FACTS,
    CustomerAbsorbed,
    CustomerErased,
    CustomerParked,
    DefinitionPublished,
    ErasureRequested,
    Fact,
    IdentityLinked,
    IdentityUnlinked,
    ImportClosed,
    ImportFinished,
    ImportPassed,
    ImportStarted,
    KeyCreated,
    KeyRevoked,
    LeafErased,
    LeafReinstated,
    ProfileChanged,
    RepublishPassed,
    RepublishRequested,
    SealingKeyDestroyed,
    TouchpointFailed,
    TouchpointFailureClosed,
    TouchpointsRecorded,
    WatermarkStated,
    WorkspaceDefined,
)
from shared.log.port import RECORD_BYTES_MAX, Topic
from shared.settings import HouseSettings
from shared.topics import (
    CHURN_ALERTS,
    DEFINITIONS,
    PROFILE_CHANGES,
    SEGMENT_CHANGES,
    TOUCHPOINTS,
    TOUCHPOINTS_FAILED,
    WATERMARKS,
    topics,
)

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "asyncapi.json"
JSON_SCHEMA = "application/schema+json;version=2020-12"

LYING_ON: Mapping[str, tuple[type[Fact], ...]] = {
    TOUCHPOINTS: (
        TouchpointsRecorded, IdentityLinked, IdentityUnlinked, ErasureRequested, LeafErased, LeafReinstated,
        ImportFinished,
    ),
    PROFILE_CHANGES: (ProfileChanged, CustomerAbsorbed, CustomerErased, CustomerParked, ImportPassed, RepublishPassed),
    WATERMARKS: (WatermarkStated,),
    TOUCHPOINTS_FAILED: (TouchpointFailed, TouchpointFailureClosed),
    DEFINITIONS: (
        WorkspaceDefined, KeyCreated, KeyRevoked, SealingKeyDestroyed, DefinitionPublished, ImportStarted, ImportClosed,
        RepublishRequested,
    ),
}  # fmt: skip
SAID_ON: Mapping[str, tuple[type[msgspec.Struct], ...]] = {
    SEGMENT_CHANGES: (SegmentChangeEvent, CustomerErasedEvent),
    CHURN_ALERTS: (ChurnAlertEvent, CustomerErasedEvent),
}
SAID = (SegmentChangeEvent, ChurnAlertEvent, CustomerErasedEvent)

ABOUT = {
    TOUCHPOINTS: (
        "leaf",
        "What a sender's requests of one moment brought to a partition, and commands. Read by profiles.",
    ),
    PROFILE_CHANGES: ("customer", "Whole customer states with their versions, and markers. Read by scoring."),
    WATERMARKS: ("none", "How far profile-changes covers touchpoints: (partition, position, vector of times)."),
    TOUCHPOINTS_FAILED: ("source", "What the door refused inside a good batch, whole and sealed, with its reason."),
    DEFINITIONS: ("none", "Workspaces, keys, rule packs and models. Every service reads it from its start."),
    SEGMENT_CHANGES: ("customer", "Every change of a customer's stage, with its cause and its reasons."),
    CHURN_ALERTS: ("customer", "Every word about an alert, from raised to its end, with its cause and its reasons."),
}

DESCRIPTION = (
    "The topics of a Raftar house. Facts are msgpack `[name, version, body]`: a body is an array, the `title` of a "
    "place names it, and places are only ever added at its end. Bytes (`contentEncoding`) are msgpack binaries, times "
    "epoch milliseconds. `segment-changes` and `churn-alerts` are CloudEvents 1.0 in JSON and meant for everybody; "
    "the others are read by the house itself, and stay readable for ever."
)


def document() -> dict[str, Any]:
    """The whole AsyncAPI 3 document."""
    settings = HouseSettings()
    laid = {topic.name: topic for topic in topics(settings.partitions)}
    channels = {name: _channel(topic) for name, topic in laid.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Raftar",
            "version": version("raftar"),
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/msgpack",
        "servers": {
            "kafka": {"host": "127.0.0.1:9092", "protocol": "kafka", "description": "RAFTAR_KAFKA_BOOTSTRAP"},
            "scoring": {"host": "127.0.0.1:8082", "protocol": "http", "description": "Server-sent events"},
        },
        "channels": channels | {"stream": _stream()},
        "operations": _operations(channels),
        "components": {"messages": _messages(), "schemas": _schemas()},
    }


def text() -> str:
    """The document as its file holds it."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def _channel(topic: Topic) -> dict[str, Any]:
    key, description = ABOUT[topic.name]
    names = [fact.NAME for fact in LYING_ON.get(topic.name, ())]
    names = names or [said.__name__ for said in SAID_ON[topic.name]]
    return {
        "address": topic.name,
        "description": f"{description} Partitioned by: {key}.",
        "servers": [{"$ref": "#/servers/kafka"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": {
                    "cleanup.policy": ["delete"],
                    "retention.ms": -1 if topic.retention_ms is None else topic.retention_ms,
                    "max.message.bytes": RECORD_BYTES_MAX,
                },
                "bindingVersion": "0.5.0",
            }
        },
    }


def _stream() -> dict[str, Any]:
    names = [said.__name__ for said in SAID]
    return {
        "address": "/v1/alerts/stream",
        "description": (
            "Server-sent events of both topics: `ready` first, then `segment_change` and `churn_alert`; `gap` names "
            "what cannot be read any more. Go on by `Last-Event-ID`. Needs a secret key with the scope `read`."
        ),
        "servers": [{"$ref": "#/servers/scoring"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
    }


def _operations(channels: Mapping[str, Any]) -> dict[str, Any]:
    """What somebody outside may do: listen."""
    told = {
        f"hear-{name}": {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{name}"},
            "summary": f"Read {name} with any Kafka client",
        }
        for name in channels
        if name in SAID_ON
    }
    stream = {"action": "receive", "channel": {"$ref": "#/channels/stream"}, "summary": "Listen over HTTP"}
    return told | {"hear-stream": stream}


def _messages() -> dict[str, Any]:
    return {fact.NAME: _fact_message(fact) for fact in FACTS} | {said.__name__: _said_message(said) for said in SAID}


def _fact_message(fact: type[Fact]) -> dict[str, Any]:
    body = {"$ref": f"#/components/schemas/{fact.__name__}/schema"}
    payload = {
        "type": "array",
        "prefixItems": [
            {"title": "name", "const": fact.NAME},
            {"title": "version", "const": fact.VERSION},
            {"title": "body", **body},
        ],
        "minItems": 3,
        "maxItems": 3,
    }
    return {
        "name": fact.NAME,
        "title": fact.__name__,
        "summary": _first_line(fact),
        "contentType": "application/msgpack",
        "payload": {"schemaFormat": JSON_SCHEMA, "schema": payload},
    }


def _said_message(said: type[msgspec.Struct]) -> dict[str, Any]:
    return {
        "name": said.__name__,
        "title": said.__name__,
        "summary": _first_line(said),
        "contentType": "application/cloudevents+json",
        "payload": {
            "schemaFormat": JSON_SCHEMA,
            "schema": {"$ref": f"#/components/schemas/{said.__name__}/schema"},
        },
    }


def _schemas() -> dict[str, Any]:
    template = "#/components/schemas/{name}/schema"
    _, found = msgspec.json.schema_components([*FACTS, *SAID], ref_template=template)
    structs = _structs((*FACTS, *SAID))
    for name, schema in found.items():
        for place, field in zip(schema.get("prefixItems", ()), structs[name].__struct_fields__, strict=False):
            place["title"] = field
    return {name: {"schemaFormat": JSON_SCHEMA, "schema": schema} for name, schema in sorted(found.items())}


def _structs(roots: tuple[type[msgspec.Struct], ...]) -> dict[str, type[msgspec.Struct]]:
    """All structs reachable from `roots`, by name."""
    found: dict[str, type[msgspec.Struct]] = {}
    ahead: list[Any] = list(roots)
    while ahead:
        kind = ahead.pop()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__name__ not in found:
            found[kind.__name__] = kind
            ahead += [field.type for field in msgspec.structs.fields(kind)]
        ahead += list(getattr(kind, "__args__", ()))
    return found


def _first_line(documented: type) -> str:
    return (documented.__doc__ or "").strip().split("\n")[0]


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")

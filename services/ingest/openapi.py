"""The event routes in OpenAPI: they are served in front of FastAPI, but documented beside everything else."""

from typing import Any

import msgspec
from fastapi import FastAPI

from services.ingest.domain.native import EXAMPLES, touchpoint_schema
from shared.httpd import Problem

_SECURITY: list[dict[str, list[str]]] = [
    {"key": []},
    {"writeKeyBasic": []},
    {"writeKeyHeader": []},
    {"writeKeyQuery": []},
]
_SCHEMES = {
    "writeKeyBasic": {"type": "http", "scheme": "basic", "description": "The key as user, no password"},
    "writeKeyHeader": {"type": "apiKey", "in": "header", "name": "X-Write-Key"},
    "writeKeyQuery": {"type": "apiKey", "in": "query", "name": "writeKey"},
}
_PERSON = {"userId": "u-17", "timestamp": "2026-03-21T09:30:00Z"}
_CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "track": (
        "Something happened. `Order Completed` and other names of Segment's specs become kinds, the rest is `custom`.",
        {
            **_PERSON,
            "messageId": "m-1",
            "event": "Order Completed",
            "properties": {"order_id": "1001", "total": 39.8, "currency": "EUR"},
        },
    ),
    "identify": ("Who this is, with traits.", {**_PERSON, "messageId": "m-2", "traits": {"plan": "pro"}}),
    "page": (
        "A page was seen.",
        {
            "anonymousId": "a-3f8",
            "messageId": "m-3",
            "timestamp": "2026-03-21T09:30:00Z",
            "name": "Sale",
            "properties": {"url": "https://shop.example/sale"},
        },
    ),
    "screen": ("A screen of an app was seen.", {**_PERSON, "messageId": "m-4", "name": "Basket"}),
    "group": ("A customer belongs to a company.", {**_PERSON, "messageId": "m-5", "groupId": "acme"}),
    "alias": (
        "Two ids are one customer (a secret key only).",
        {"userId": "u-17", "previousId": "a-3f8", "messageId": "m-6"},
    ),
}
_BATCH = {
    "batch": [{"type": kind, **example} for kind, (_, example) in list(_CALLS.items())[:2]],
    "sentAt": "2026-03-21T09:30:02Z",
}


def describe_events(app: FastAPI) -> None:
    """Add the event routes, their bodies, answers and examples to the application's OpenAPI document."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update(_schemas())
            components.setdefault("securitySchemes", {}).update(_SCHEMES)
            document["paths"] = {**_paths(), **document["paths"]}
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI documents


def _schemas() -> dict[str, Any]:
    (_,), problem = msgspec.json.schema_components([Problem], ref_template="#/components/schemas/{name}")
    return {**touchpoint_schema(), **problem}


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {"/v1/touchpoints": {"post": _touchpoints()}}
    for kind, (summary, example) in _CALLS.items():
        paths[f"/v1/{kind}"] = {"post": _segment(kind, f"{summary} Also at `/v1/{kind[0]}`.", example)}
    many = "Many calls in one request; each needs a `type`. Also at `/v1/b` and `/v1/import`."
    paths["/v1/batch"] = {"post": _segment("batch", many, _BATCH)}
    return paths


def _touchpoints() -> dict[str, Any]:
    touchpoint = {"$ref": "#/components/schemas/NativeTouchpoint"}
    examples: dict[str, Any] = {name: {"value": value} for name, value in EXAMPLES.items()}
    examples["several"] = {"value": list(EXAMPLES.values())[:2]}
    answer = {
        "accepted": 1,
        "failed": 1,
        "results": [
            {"status": "accepted", "id": "0198c0de-0000-7000-8000-000000000001"},
            {"status": "failed", "code": "invalid_field", "field": "[1].kind", "reason": "no such kind"},
        ],
    }
    schema = {"anyOf": [touchpoint, {"type": "array", "items": touchpoint}]}
    summary = "Touchpoints in Raftar's own shape, one or an array: one result each."
    return _operation("touchpoints", summary, schema, examples, answer)


def _segment(name: str, summary: str, example: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "additionalProperties": True}
    return _operation(name, summary, schema, {name: {"value": example}}, {"success": True})


def _operation(
    name: str, summary: str, schema: dict[str, Any], examples: dict[str, Any], answer: dict[str, Any]
) -> dict[str, Any]:
    return {
        "tags": ["events"],
        "operationId": f"post_{name}",
        "summary": summary,
        "description": "Any content type; gzip is recognised. A batch keeps what it must refuse and answers 200.",
        "security": _SECURITY,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": examples}}},
        "responses": {
            "200": {
                "description": "Durably in the log",
                "content": {"application/json": {"schema": {"type": "object"}, "example": answer}},
            },
            "400": _problem("Not JSON, or a single call with a wrong field"),
            "401": _problem("No key, or an unknown one"),
            "403": _problem("The key may not write"),
            "408": _problem("The body took too long"),
            "413": _problem("Over a bound; the message names it"),
            "503": {
                **_problem("The log takes nothing now, or did not confirm: send the same again"),
                "headers": {"Retry-After": {"description": "whole seconds", "schema": {"type": "integer"}}},
            },
        },
    }


def _problem(description: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": description, "content": content}

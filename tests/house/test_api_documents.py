"""The machine-readable documents are those of the code, hold what their standards ask for, and their examples fit."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from shared.events import FACTS
from shared.topics import CHURN_ALERTS, SEGMENT_CHANGES, topics
from tests.house import asyncapi_page, openapi_pages

SERVICES = ("ingest", "profiles", "scoring")
GOLDEN = Path(__file__).parents[1] / "golden"
ANEW = "it is not what the code says: make docs"


async def test_openapi_documents_are_those_of_the_code() -> None:
    for service, document in (await openapi_pages.documents()).items():
        assert openapi_pages.page_of(service).read_text() == openapi_pages.text_of(document), f"{service}: {ANEW}"


def test_the_asyncapi_document_is_that_of_the_code() -> None:
    assert asyncapi_page.PAGE.read_text() == asyncapi_page.text(), ANEW


@pytest.mark.parametrize("service", SERVICES)
def test_openapi_documents_are_valid(service: str) -> None:
    validate(written(service))


@pytest.mark.parametrize("service", SERVICES)
def test_examples_of_openapi_fit_their_schemas(service: str) -> None:
    document = written(service)
    judge = judge_of(document)
    checked = [
        (pointer, list(judge.evolve(schema={"$ref": f"urn:document#{pointer}"}).iter_errors(example)))
        for pointer, example in examples(document)
    ]
    assert checked
    assert [(pointer, [error.message for error in errors]) for pointer, errors in checked if errors] == []


@pytest.mark.parametrize("service", SERVICES)
def test_every_operation_says_what_it_is_for_and_who_may(service: str) -> None:
    for path, operations in written(service)["paths"].items():
        for verb, operation in operations.items():
            assert operation.get("summary") or operation.get("description"), f"{verb} {path}"
            assert path in OPEN or operation.get("security"), f"{verb} {path} names no key"


OPEN = {"/livez", "/readyz", "/metrics", "/v1/projects/{write_key}/settings"}
"""What anybody may ask; the last names its key in its path."""


def test_every_topic_and_every_fact_stands_in_the_asyncapi_document() -> None:
    document = json.loads(asyncapi_page.PAGE.read_text())
    assert set(document["channels"]) == {topic.name for topic in topics(1)} | {"stream"}
    lying = [fact for facts in asyncapi_page.LYING_ON.values() for fact in facts]
    assert sorted(fact.NAME for fact in lying) == sorted(fact.NAME for fact in FACTS)


def test_the_asyncapi_document_has_the_form_of_asyncapi_3() -> None:
    """The rules of the 3.0.0 specification that a generator can break: required fields, places of references."""
    document = json.loads(asyncapi_page.PAGE.read_text())
    assert document["asyncapi"] == "3.0.0"
    assert document["info"]["title"]
    assert document["info"]["version"]
    assert {server["protocol"] for server in document["servers"].values()} == {"kafka", "http"}
    assert all(server["host"] for server in document["servers"].values())
    for operation in document["operations"].values():
        assert operation["action"] in ("send", "receive")
        assert operation["channel"]["$ref"].startswith("#/channels/")
    for message in document["components"]["messages"].values():
        assert set(message["payload"]) == {"schemaFormat", "schema"}
    for reference in references(document):
        assert resolved(document, reference) is not None, reference
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema["schema"])


@pytest.mark.parametrize("path", sorted((GOLDEN / "facts").glob("*.hex")), ids=lambda path: path.name)
def test_facts_on_the_log_fit_their_schemas(path: Path) -> None:
    document = json.loads(asyncapi_page.PAGE.read_text())
    fact = msgspec.to_builtins(msgspec.msgpack.decode(bytes.fromhex(path.read_text())))
    judge_of(document).evolve(schema={"$ref": f"urn:document#{message(fact[0])}"}).validate(fact)


@pytest.mark.parametrize("path", sorted((GOLDEN / "events").glob("*.json")), ids=lambda path: path.name)
def test_what_scoring_said_fits_its_schema(path: Path) -> None:
    document = json.loads(asyncapi_page.PAGE.read_text())
    topic = CHURN_ALERTS if path.name.startswith("alert") else SEGMENT_CHANGES
    name = asyncapi_page.SAID_ON[topic][path.name.startswith("customer")].__name__
    judge_of(document).evolve(schema={"$ref": f"urn:document#{message(name)}"}).validate(json.loads(path.read_text()))


def written(service: str) -> Any:
    """A service's committed document."""
    return json.loads(openapi_pages.page_of(service).read_text())


def message(name: str) -> str:
    """Pointer to the schema of a message's payload."""
    return f"/components/messages/{name}/payload/schema"


def judge_of(document: Any) -> Draft202012Validator:
    """A validator to which the document is known as `urn:document`."""
    resource = Resource.from_contents(document, default_specification=DRAFT202012)
    return Draft202012Validator({}, registry=Registry().with_resource("urn:document", resource))


def examples(at: Any, pointer: str = "") -> Iterator[tuple[str, Any]]:
    """(pointer to the schema, example) of every body and answer, and of every schema that brings examples."""
    if isinstance(at, list):
        for number, below in enumerate(at):
            yield from examples(below, f"{pointer}/{number}")
    if not isinstance(at, dict):
        return
    if isinstance(at.get("schema"), dict):
        many = at.get("examples")
        given = [one["value"] for one in many.values()] if isinstance(many, dict) else []
        given += [at["example"]] if "example" in at else []
        yield from ((f"{pointer}/schema", example) for example in given)
    if isinstance(at.get("examples"), list) and ("type" in at or "properties" in at or "anyOf" in at):
        yield from ((pointer, example) for example in at["examples"])
    for name, below in at.items():
        if name not in ("example", "examples"):
            yield from examples(below, f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}")


def references(at: Any) -> Iterator[str]:
    """Every `$ref`."""
    if isinstance(at, dict):
        if isinstance(at.get("$ref"), str):
            yield at["$ref"]
        for below in at.values():
            yield from references(below)
    elif isinstance(at, list):
        for below in at:
            yield from references(below)


def resolved(document: Any, reference: str) -> Any:
    """What a local reference leads to; None where it leads nowhere."""
    for part in reference.removeprefix("#/").split("/"):
        document = document.get(part) if isinstance(document, dict) else None
    return document

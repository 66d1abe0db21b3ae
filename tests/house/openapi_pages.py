"""`docs/reference/openapi-*.json`: what each service serves at `/openapi.json`, written by `make docs`."""

import asyncio
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from services.ingest.app import from_settings as ingest
from services.ingest.settings import IngestSettings
from services.profiles.app import from_settings as profiles
from services.profiles.settings import ProfilesSettings
from services.scoring.app import from_settings as scoring
from services.scoring.settings import ScoringSettings
from shared.httpd import HouseApp

FOLDER = Path(__file__).parents[2] / "docs" / "reference"


def page_of(service: str) -> Path:
    """Where a service's document stands."""
    return FOLDER / f"openapi-{service}.json"


async def documents() -> dict[str, dict[str, Any]]:
    """The OpenAPI document of every service, by service: each is built with its defaults and asked, never started."""
    with TemporaryDirectory() as folder:
        data_dir = Path(folder)
        apps = {
            "ingest": ingest(IngestSettings(data_dir=data_dir)),
            "profiles": profiles(ProfilesSettings(data_dir=data_dir)),
            "scoring": scoring(ScoringSettings(data_dir=data_dir)),
        }
        return {service: await _asked(app) for service, app in apps.items()}


def text_of(document: dict[str, Any]) -> str:
    """A document as its file holds it."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


async def _asked(app: HouseApp) -> dict[str, Any]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        answer = await client.get("/openapi.json")
    document: dict[str, Any] = answer.raise_for_status().json()
    return document


def main() -> None:
    """Write all three."""
    for service, document in asyncio.run(documents()).items():
        page_of(service).write_text(text_of(document), encoding="utf-8")


if __name__ == "__main__":
    main()

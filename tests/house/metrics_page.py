"""`docs/reference/metrics.md` from what a running house serves at `/metrics`: `python -m tests.house.metrics_page`."""

from collections.abc import Mapping
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from services import local_access
from shared.settings import HouseSettings

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
PREFIX = "raftar_"
OWN_CLOCK = "_created"
"""Prometheus' own note of when a counter began; it says nothing about the house."""

HEAD = """# Metrics

Each service serves these at `/metrics` in Prometheus' text format, beside those of its process (`process_*`,
`python_*`). What to watch and what each alarm means stands in the [runbooks](../runbooks.md). A test compares this page
with a running house; beside one, `python -m tests.house.metrics_page` writes it anew.
"""


def page(served: Mapping[str, str]) -> str:
    """The whole page from the text each service serves, by service."""
    return HEAD + "".join(_section(service, text) for service, text in served.items())


def serving(urls: Mapping[str, str]) -> dict[str, str]:
    """What the services at these URLs serve."""
    with httpx.Client(trust_env=False, timeout=10) as client:
        return {service: client.get(f"{url}/metrics").raise_for_status().text for service, url in urls.items()}


def _section(service: str, text: str) -> str:
    rows = {
        family.name: f"| `{_served_name(family.name, family.type)}` | {family.type} | {family.documentation} |"
        for family in text_string_to_metric_families(text)
        if family.name.startswith(PREFIX) and not family.name.endswith(OWN_CLOCK)
    }
    return f"\n## {service}\n\n| metric | type | meaning |\n|---|---|---|\n" + "\n".join(rows.values()) + "\n"


def _served_name(name: str, kind: str) -> str:
    return f"{name}_total" if kind == "counter" else name


def main() -> None:
    """Write the page from the house whose data folder the settings name."""
    access = local_access.load(HouseSettings().data_dir)
    if access is None:
        raise SystemExit("no house was started in this data folder: `make run`")
    urls = {"ingest": access.ingest_url, "profiles": access.profiles_url, "scoring": access.scoring_url}
    PAGE.write_text(page(serving(urls)), encoding="utf-8")


if __name__ == "__main__":
    main()

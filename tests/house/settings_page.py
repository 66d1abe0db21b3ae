"""`docs/reference/settings.md` from the settings classes themselves, wherever in the house they stand."""

import importlib
import pkgutil
import warnings
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"

HEAD = """# Settings

Everything is set by environment variables, read once at start. Written by `make docs` from the settings classes.

| variable | default | meaning | read by |
|---|---|---|---|
"""


def settings_classes() -> list[type[BaseSettings]]:
    """Every settings class of `shared` and `services`, by module and name; every module is imported to find them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the Kafka client reads its schemas the old way
        for package in ("shared", "services"):
            root = importlib.import_module(package)
            for module in pkgutil.walk_packages(root.__path__, f"{package}."):
                if not module.name.endswith("__main__"):
                    importlib.import_module(module.name)
    return sorted(_below(BaseSettings), key=lambda found: (found.__module__, found.__name__))


def page() -> str:
    """The whole page."""
    readers: dict[str, set[str]] = {}
    fields: dict[str, FieldInfo] = {}
    for found in settings_classes():
        prefix = str(found.model_config.get("env_prefix", ""))
        for name, field in found.model_fields.items():
            variable = f"{prefix}{name}".upper()
            fields.setdefault(variable, field)
            readers.setdefault(variable, set()).add(_reader(found))
    rows = [_row(variable, field, readers[variable]) for variable, field in sorted(fields.items())]
    return HEAD + "\n".join(rows) + "\n"


def _row(variable: str, field: FieldInfo, readers: set[str]) -> str:
    who = "all" if "all" in readers else ", ".join(sorted(readers))
    return f"| `{variable}` | {_default(field.get_default(call_default_factory=True))} | {field.description} | {who} |"


def _reader(found: type[BaseSettings]) -> str:
    """`all` for what every service reads, else the service or part."""
    module = found.__module__.split(".")
    if module[0] == "shared":
        return "all"
    return {"cli": "command line", "all_in_one": "`make run`"}.get(module[1], module[1])


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    return "empty" if value in ("", None) else f"`{value}`"


def _below(found: type[BaseSettings]) -> list[type[BaseSettings]]:
    below: dict[type[BaseSettings], None] = {}
    for child in found.__subclasses__():
        if child.__module__.split(".")[0] in ("shared", "services"):
            below[child] = None
        below.update(dict.fromkeys(_below(child)))
    return list(below)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

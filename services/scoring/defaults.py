"""Version 1 of what decides, as shipped: the default rule pack beside this file and the default model."""

from importlib.resources import files
from typing import Any

from services.scoring.domain.definitions import DEFAULT_MODEL
from services.scoring.domain.pack import rules_of
from shared.events import DefinitionPublished


def default_rules() -> dict[str, Any]:
    """The plain rules of `default_pack.yaml`."""
    return rules_of(files("services.scoring").joinpath("default_pack.yaml").read_text(encoding="utf-8"))


def first_definition(workspace: str, effective_at: int = 0) -> DefinitionPublished:
    """The fact that arms a new workspace: version 1, in force from `effective_at` (epoch ms) on."""
    return DefinitionPublished(workspace, 1, effective_at, default_rules(), dict(DEFAULT_MODEL))

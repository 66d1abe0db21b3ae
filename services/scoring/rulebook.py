"""What each workspace decides by, as `definitions` says it: its versions, compiled, and its time zone.

A version that cannot be used is refused visibly and the older ones stay in force.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from zoneinfo import ZoneInfo

import structlog

from services.scoring.defaults import first_definition
from services.scoring.domain.definitions import Definition, definition_of, in_force
from services.scoring.domain.step import Rules
from shared.definitions import DefinitionsFeed
from shared.errors import InvalidField, Retryable
from shared.events import DefinitionPublished, WorkspaceDefined
from shared.lane import named

_log = structlog.get_logger("rulebook")


@dataclass(frozen=True, slots=True)
class Edition:
    """One version as published. `refused`: why it is not used, "" = it is."""

    fact: DefinitionPublished
    refused: str = ""


@cache
def built_in() -> Definition:
    """Version 1 as shipped, compiled; in force where a workspace published none of its own."""
    return definition_of(first_definition(""))


class Rulebook:
    """Follows `feed`. Make it before the feed is started."""

    def __init__(self, feed: DefinitionsFeed) -> None:
        self.refused = 0
        self._editions: dict[str, list[Edition]] = {}
        self._definitions: dict[str, list[Definition]] = {}
        self._zones: dict[str, ZoneInfo] = {}
        feed.on(WorkspaceDefined, self._defined)
        feed.on(DefinitionPublished, self._published)

    def rules(self, workspace: str) -> Rules:
        """What `workspace` decides by. Raises Retryable while its definition was not read yet."""
        zone = self._zones.get(workspace)
        if zone is None:
            raise Retryable(f"workspace {workspace!r} is not known here yet")
        return Rules(self.definitions(workspace), zone)

    def workspaces(self) -> Sequence[str]:
        """All that were defined so far."""
        return tuple(self._zones)

    def zone(self, workspace: str) -> ZoneInfo:
        """The time zone of a workspace that is known."""
        return self._zones[workspace]

    def definitions(self, workspace: str) -> Sequence[Definition]:
        """The versions in use, ascending, at least one."""
        return self._definitions.get(workspace) or (built_in(),)

    def in_force(self, at: int) -> Mapping[str, int]:
        """Workspace → version in force at `at` (epoch ms)."""
        return {workspace: in_force(self.definitions(workspace), at).version for workspace in self._zones}

    def editions(self, workspace: str) -> Sequence[Edition]:
        """All that was published, refused ones too, in log order; the built-in version where nothing replaced it."""
        published = self._editions.get(workspace, [])
        if any(edition.fact.version == 1 and not edition.refused for edition in published):
            return published
        return [Edition(first_definition(workspace)), *published]

    def _defined(self, fact: WorkspaceDefined) -> None:
        if fact.workspace in self._zones:
            return  # a time zone is fixed for ever
        try:
            self._zones[fact.workspace] = ZoneInfo(fact.time_zone)
        except (ValueError, OSError) as error:  # an unknown key is both, by its shape
            self.refused += 1
            self._zones[fact.workspace] = ZoneInfo("UTC")
            _log.error("unknown time zone, days are UTC", workspace=fact.workspace, error=named(error))

    def _published(self, fact: DefinitionPublished) -> None:
        reason = ""
        try:
            self._take(fact)
        except Exception as error:  # whatever is wrong with it: the older versions stay, and everybody sees why
            self.refused += 1
            reason = str(error) if isinstance(error, InvalidField) else named(error)
            _log.error("definition refused", workspace=fact.workspace, version=fact.version, why=reason)
        self._editions.setdefault(fact.workspace, []).append(Edition(fact, reason))

    def _take(self, fact: DefinitionPublished) -> None:
        definition = definition_of(fact)
        known = list(self._definitions.get(fact.workspace, ()))
        if not known and fact.version > 1:
            known = [built_in()]
        if known:
            newest = known[-1]
            if fact.version <= newest.version:
                raise InvalidField("version", f"{fact.version} is not after {newest.version}: the first one stays")
            if fact.effective_at < newest.effective_at:
                raise InvalidField("effective_at", f"is before that of version {newest.version}")
        self._definitions[fact.workspace] = [*known, definition]

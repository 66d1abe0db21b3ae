"""What keeps a promise to a person, put together: erasing, sealing keys, and overwriting what was deleted."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter

from services.profiles.erasing import Erasing
from services.profiles.opening import Leaves, Openers
from services.profiles.routes_erasing import ErasingDesk, erasing_routes
from services.profiles.routes_sealing_keys import SealingDesk, sealing_key_routes
from services.profiles.scrubbing import Scrubber
from services.profiles.sealing_keys import SealingKeys, SealingSecrets
from services.profiles.settings import ProfilesSettings
from services.profiles.store import SqlStore
from shared.clock import Clock
from shared.definitions import DefinitionsFeed
from shared.httpd import Auth
from shared.log.port import Log


@dataclass(frozen=True, slots=True)
class Privacy:
    """The parts. `scrubber.run()` is a task of the service."""

    erasing: Erasing
    keys: SealingKeys
    scrubber: Scrubber
    openers: Openers

    def check(self, missing: list[str]) -> dict[str, Any]:
        """For readiness: workspaces without secrets here, and sealing keys in use that were not brought here."""
        away = self.openers.away()
        return {"ok": not missing and not away, "missing_workspaces": missing, "missing_sealing_keys": away}

    def routes(self, auth: Auth) -> APIRouter:
        """Everything REST says and hears about it."""
        router = APIRouter()
        router.include_router(erasing_routes(ErasingDesk(self.erasing, self.keys.feed), auth))
        router.include_router(sealing_key_routes(SealingDesk(self.keys), auth))
        return router


def privacy(
    settings: ProfilesSettings,
    log: Log,
    store: SqlStore,
    clock: Clock,
    secrets: SealingSecrets,
    feed: DefinitionsFeed,
    openers: Openers,
    wake: Callable[[], None],
) -> Privacy:
    """Put them together; before the feed starts."""
    grace_seconds = settings.profiles_key_grace_seconds
    keys = SealingKeys(store.database, log, feed, clock, secrets, openers, grace_seconds)
    keys.listen()
    erasing = Erasing(store, Leaves(secrets, feed), clock, settings.partitions, wake)
    return Privacy(erasing, keys, Scrubber(store.database, clock, settings.profiles_scrub_seconds), openers)

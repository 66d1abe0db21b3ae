"""Definitions whose thresholds are seconds, so that a schedule of a minute sees stages change and silences begin."""

from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from services.scoring.domain.definitions import Definition, model_of
from services.scoring.domain.pack import pack_of
from shared.clock import FrozenClock

__all__ = ["FIXED_SILENCE_MS", "UTC", "Definitions", "definition"]

UTC: tzinfo = ZoneInfo("UTC")
FIXED_SILENCE_MS = 20_000

_MODEL = {"unit": "10s", "horizon": "30s", "shop_gap": "10s"}
_STAGES = [
    {"stage": "prospect", "enter": ["orders = 0"]},
    {"stage": "new", "enter": ["orders = 1", "silence < 15s"]},
    {"stage": "lost", "enter": ["silence >= 60s"]},
    {"stage": "quiet", "enter": ["silence >= 15s"]},
    {"stage": "active", "enter": []},
]
_OPENS = [{"kind": "complained"}, {"kind": "survey_answered", "metric": "nps", "at_most": 6}]
_CLEARS = [{"kind": "survey_answered", "metric": "nps", "at_least": 9}]
FIXED = ["orders >= 1", "silence >= 20s"]
BY_MODEL = ["orders >= 2", "p_buy < 0.5", "rhythm >= 0.8"]


def definition(version: int, effective_at: int, silence: list[str]) -> Definition:
    """A version of the trial rules with this silence alert."""
    rules: dict[str, Any] = {
        "name": "trial",
        "days": "1s",
        "stages": _STAGES,
        "alerts": {
            "silence": {"when": silence, "expires": "90s"},
            "bad_experience": {"opens": _OPENS, "clears": _CLEARS, "expires": "600s"},
        },
    }
    return Definition(version, effective_at, pack_of(rules), model_of(_MODEL))


@dataclass
class Definitions:
    """The `definitions` topic: every version published so far."""

    clock: FrozenClock
    versions: list[Definition] = field(default_factory=list)

    def publish(self, silence: list[str], in_ms: int) -> None:
        """A further version, in force a little later."""
        earliest = self.versions[-1].effective_at if self.versions else 0
        effective_at = max(self.clock.now_ms() + in_ms, earliest)
        self.versions.append(definition(len(self.versions) + 1, effective_at, silence))

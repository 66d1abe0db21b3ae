"""A rule pack whose days are seconds, so that silence comes true while a test waits."""

from typing import Any


def rules(silence: str, expires: str = "1h") -> dict[str, Any]:
    """Stages prospect, active, quiet; a silence alert `silence` (such as `3s`) after the last purchase; bad experience
    as in the default pack. `expires`: how long an alert stays open."""
    return {
        "name": f"silence of {silence}",
        "days": "1s",
        "purchase_trust_min": "public",
        "stages": [
            {"stage": "prospect", "enter": ["orders = 0"]},
            {"stage": "quiet", "enter": [f"silence >= {silence}"]},
            {"stage": "active", "enter": []},
        ],
        "alerts": {
            "silence": {"when": ["orders >= 1", f"silence >= {silence}"], "expires": expires},
            "bad_experience": {
                "opens": [{"kind": "complained"}, {"kind": "survey_answered", "metric": "csat", "at_most": 2}],
                "clears": [{"kind": "survey_answered", "metric": "csat", "at_least": 4}],
                "expires": expires,
            },
        },
    }

"""The topics of the house: names, partitions, retention (design §3)."""

from shared.log.port import Topic

TOUCHPOINTS = "touchpoints"
PROFILE_CHANGES = "profile-changes"
WATERMARKS = "watermarks"
SEGMENT_CHANGES = "segment-changes"
CHURN_ALERTS = "churn-alerts"
TOUCHPOINTS_FAILED = "touchpoints-failed"
DEFINITIONS = "definitions"

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
FAILED_PARTITIONS = 4


def topics(partitions: int) -> tuple[Topic, ...]:
    """All topics of a house with `partitions` partitions (design §3)."""
    return (
        Topic(TOUCHPOINTS, partitions),
        Topic(PROFILE_CHANGES, partitions, retention_ms=30 * DAY_MS),
        Topic(WATERMARKS, 1, retention_ms=HOUR_MS, flushed=False),
        Topic(SEGMENT_CHANGES, partitions),
        Topic(CHURN_ALERTS, partitions),
        Topic(TOUCHPOINTS_FAILED, FAILED_PARTITIONS, retention_ms=30 * DAY_MS),
        Topic(DEFINITIONS, 1),
    )

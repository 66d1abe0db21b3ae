"""Every error Raftar raises on purpose, named by what the caller does next.

RaftarError
├── Rejected            the caller's fault: refuse it (4xx), never retry the same bytes
│   ├── InvalidField        one field is wrong; carries its path and a reason
│   ├── TooLarge            over a documented bound
│   ├── NotAllowed          no key, a wrong key, or a key without the scope
│   └── NotFound            no such thing in this workspace
├── Retryable           the caller's intent is fine: try again later (503)
│   ├── NotAccepting        the log cannot take more now; nothing was written
│   └── OutcomeUnknown      written or not, nobody knows; the retry is deduplicated
├── Conflict            reload and retry at once
│   └── Fenced              another worker owns the partition; this one may read, never write
├── Poison              this one fact cannot be folded; park it and go on
└── Stopped             this partition must not go on until a person acts
    ├── NewerVersion        a fact of a version this code does not know
    ├── OutOfRange          the log no longer (or not yet) holds the position asked for
    └── LogMismatch         the log is not the one the checkpoint was made on
"""


class RaftarError(Exception):
    """Root of the tree above."""


class Rejected(RaftarError):
    """The caller's fault. `code` is stable and for machines, the message is for people."""

    code = "rejected"


class InvalidField(Rejected):
    """One field is wrong. `field` is its path as the caller sent it, e.g. `batch[3].properties.amount`."""

    code = "invalid_field"

    def __init__(self, field: str, reason: str, code: str = "invalid_field") -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field, self.reason, self.code = field, reason, code


class TooLarge(Rejected):
    """Over a documented bound; the message names the bound and its setting."""

    code = "too_large"


class NotAllowed(Rejected):
    """No key, an unknown or revoked key, or a key without the scope."""

    code = "not_allowed"


class NotFound(Rejected):
    """No such thing in this workspace."""

    code = "not_found"


class Retryable(RaftarError):
    """Try again after `retry_after_seconds`."""

    code = "unavailable"

    def __init__(self, message: str, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class NotAccepting(Retryable):
    """Back-pressure: the log cannot take more now. Nothing was written."""

    code = "log_not_accepting"


class OutcomeUnknown(Retryable):
    """The append timed out: the records may or may not be in the log."""

    code = "outcome_unknown"


class Conflict(RaftarError):
    """Somebody else was first: reload and retry."""


class Fenced(Conflict):
    """The partition has another owner since; nothing of this transaction was written."""


class Poison(RaftarError):
    """One fact cannot be folded. It is parked with its bytes and this reason."""


class Stopped(RaftarError):
    """The partition stops until a person acts; the message says what to do."""


class NewerVersion(Stopped):
    """A fact of a newer version than this code knows: deploy the newer code here first."""


class OutOfRange(Stopped):
    """The position asked for is outside `earliest`..`end` of the partition."""

    def __init__(self, topic: str, partition: int, position: int, earliest: int, end: int) -> None:
        super().__init__(
            f"{topic}/{partition}: position {position} is outside the log ({earliest}..{end}); "
            "restore the log that belongs to this database, or rebuild the projection"
        )
        self.topic, self.partition, self.position = topic, partition, position
        self.earliest, self.end = earliest, end


class LogMismatch(Stopped):
    """The log's identity or last folded record differs from what the checkpoint remembers."""


def quoted(value: object, characters_max: int = 40) -> str:
    """A value inside a reason: the start of a text as a whole literal, so that its quotes always close and can be
    found again; of anything else no more than that it is one."""
    return repr(value[:characters_max]) if isinstance(value, str) else "the value"


def anew(error: RaftarError) -> RaftarError:
    """An error like this one for each of several callers: one shared instance would collect everybody's traceback."""
    return type(error)(str(error), error.retry_after_seconds) if isinstance(error, Retryable) else error

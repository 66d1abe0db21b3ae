"""`python -m services.ingest`: the door, until SIGTERM."""

from services.ingest.app import from_settings
from services.ingest.settings import IngestSettings
from shared.serving import serve
from shared.telemetry import start_logging


def main() -> None:
    """Run the door with the settings of the environment."""
    start_logging("ingest")
    settings = IngestSettings()
    serve(from_settings(settings), settings.serving)


if __name__ == "__main__":
    main()

"""`python -m services.scoring`: scoring, until SIGTERM."""

from services.scoring.app import from_settings
from services.scoring.settings import ScoringSettings
from shared.serving import serve
from shared.telemetry import start_logging


def main() -> None:
    """Run scoring with the settings of the environment."""
    start_logging("scoring")
    settings = ScoringSettings()
    serve(from_settings(settings), settings.serving)


if __name__ == "__main__":
    main()

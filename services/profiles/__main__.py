"""`python -m services.profiles`: profiles, until SIGTERM."""

from services.profiles.app import from_settings
from services.profiles.settings import ProfilesSettings
from shared.serving import serve
from shared.telemetry import start_logging


def main() -> None:
    """Run profiles with the settings of the environment."""
    start_logging("profiles")
    settings = ProfilesSettings()
    serve(from_settings(settings), settings.serving)


if __name__ == "__main__":
    main()

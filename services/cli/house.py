"""Where the house is and with which key: from RAFTAR_* variables, else from the file `raftar run` leaves behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from services import local_access
from services.cli.errors import WrongUse
from services.cli.rest import Rest
from services.local_access import LocalAccess


class CliSettings(BaseSettings):
    """What the command line needs to reach a house that runs somewhere else. On the same machine nothing is needed."""

    model_config = SettingsConfigDict(env_prefix="RAFTAR_", extra="ignore")

    data_dir: Path = Field(Path("data"), description="folder of keys, SQLite logs and databases (created, mode 700)")
    secret_key: str = Field("", description="key the command line uses; empty: the one made at first start")
    ingest_url: str = Field("", description="where the command line finds ingest; empty: where it runs on this machine")
    profiles_url: str = Field(
        "", description="where the command line finds profiles, and scoring asks about the past; empty: as above"
    )
    scoring_url: str = Field("", description="where the command line finds scoring; empty: as above")


@dataclass(frozen=True, slots=True)
class House:
    """The three services as one key sees them."""

    access: LocalAccess
    data_dir: Path

    @contextmanager
    def ingest(self) -> Iterator[Rest]:
        """A connection to ingest, closed at the end of the block."""
        with _open("ingest", self.access.ingest_url, self.access.secret_key) as rest:
            yield rest

    @contextmanager
    def profiles(self) -> Iterator[Rest]:
        """A connection to profiles, closed at the end of the block."""
        with _open("profiles", self.access.profiles_url, self.access.secret_key) as rest:
            yield rest

    @contextmanager
    def scoring(self) -> Iterator[Rest]:
        """A connection to scoring, closed at the end of the block."""
        with _open("scoring", self.access.scoring_url, self.access.secret_key) as rest:
            yield rest


def find_house(settings: CliSettings) -> House:
    """The house these settings lead to. Raises WrongUse when no key or no URL is known, with what to do."""
    try:
        saved = local_access.load(settings.data_dir) or LocalAccess(workspace="")
    except ValueError as error:
        raise WrongUse(str(error)) from error
    access = LocalAccess(
        workspace=saved.workspace,
        write_key=saved.write_key,
        secret_key=settings.secret_key or saved.secret_key,
        ingest_url=settings.ingest_url or saved.ingest_url,
        profiles_url=settings.profiles_url or saved.profiles_url,
        scoring_url=settings.scoring_url or saved.scoring_url,
    )
    if not access.secret_key:
        raise WrongUse(
            f"no key is known: there is no {local_access.FILE_NAME} in {settings.data_dir}",
            "start a house here with `raftar run`, or set RAFTAR_SECRET_KEY and RAFTAR_INGEST_URL, "
            "RAFTAR_PROFILES_URL, RAFTAR_SCORING_URL",
        )
    return House(access, settings.data_dir)


@contextmanager
def _open(name: str, url: str, key: str) -> Iterator[Rest]:
    if not url:
        raise WrongUse(
            f"it is not known where {name} is", f"start the house with `raftar run`, or set RAFTAR_{name.upper()}_URL"
        )
    rest = Rest(name, url, key)
    try:
        yield rest
    finally:
        rest.close()

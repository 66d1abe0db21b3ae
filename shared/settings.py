"""Settings that every service shares, read once from `RAFTAR_*` variables. Units stand last in the names."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class HouseSettings(BaseSettings):
    """Where the house keeps its data and which log and database it stands on."""

    model_config = SettingsConfigDict(env_prefix="RAFTAR_", extra="ignore")

    data_dir: Path = Field(Path("data"), description="folder of keys, SQLite logs and databases (created, mode 700)")
    partitions: int = Field(
        16, ge=1, le=1024, description="partitions of touchpoints and profile-changes; fixed at first start"
    )
    kafka_bootstrap: str = Field("", description="Kafka bootstrap servers; empty: SQLite logs in the data folder")
    kafka_topic_prefix: str = Field(
        "",
        pattern=r"^[a-zA-Z0-9._-]{0,60}$",
        description="stands before the names of topics and consumer groups on Kafka",
    )
    database_url: str = Field("", description="postgresql://user:password@host/db; empty: SQLite in the data folder")
    clock_allowance_ms: int | None = Field(
        None, ge=0, description="frontier allowance; default 0 on SQLite, 250 on Kafka"
    )
    host: str = Field("127.0.0.1", description="address the services listen on")
    workspace: str = Field("main", description="workspace made at first start")
    time_zone: str = Field("UTC", description="time zone of the workspace made at first start; fixed afterwards")
    region: str = Field("", description="two-letter region for local phone forms of the workspace made at first start")

    @property
    def allowance_ms(self) -> int:
        """The frontier's clock allowance in milliseconds (design §4)."""
        if self.clock_allowance_ms is not None:
            return self.clock_allowance_ms
        return 250 if self.kafka_bootstrap else 0

    @property
    def log_dir(self) -> Path:
        """Folder of the SQLite logs."""
        return self.data_dir / "log"

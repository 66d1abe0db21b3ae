"""Settings that every service shares, read once from `RAFTAR_*` variables. Units stand last in the names."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, model_validator
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
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="whether connections to Kafka are encrypted (SSL) and authenticated (SASL)"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="how user and password are proved to Kafka, with SASL"
    )
    kafka_sasl_username: str = Field("", description="user at Kafka, with SASL")
    kafka_sasl_password: SecretStr | None = Field(None, description="that user's password")
    kafka_ssl_ca_file: str = Field(
        "", description="PEM file of the authority that signed the brokers' certificates; empty: the system's"
    )
    kafka_ssl_cert_file: str = Field("", description="PEM file of our own certificate, where brokers ask for one")
    kafka_ssl_key_file: str = Field("", description="PEM file of its private key; empty: it is in the same file")
    kafka_ssl_key_password: SecretStr | None = Field(None, description="what that private key is encrypted with")
    database_url: str = Field("", description="postgresql://user:password@host/db; empty: SQLite in the data folder")
    clock_allowance_ms: int | None = Field(
        None, ge=0, description="frontier allowance; default 0 on SQLite, 250 on Kafka"
    )
    host: str = Field("127.0.0.1", description="address the services listen on")
    workspace: str = Field("main", description="workspace made at first start")
    time_zone: str = Field("UTC", description="time zone of the workspace made at first start; fixed afterwards")
    region: str = Field("", description="two-letter region for local phone forms of the workspace made at first start")

    @model_validator(mode="after")
    def _who_we_are(self) -> Self:
        if "SASL" in self.kafka_security_protocol and not (self.kafka_sasl_username and self.kafka_sasl_password):
            raise ValueError(
                f"RAFTAR_KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol} needs RAFTAR_KAFKA_SASL_USERNAME "
                "and RAFTAR_KAFKA_SASL_PASSWORD"
            )
        return self

    @property
    def kafka_security(self) -> dict[str, Any]:
        """For every connection to Kafka, in its client library's words. It holds the password: not for any log."""
        protocol = self.kafka_security_protocol
        chosen: dict[str, Any] = {}
        if "SSL" in protocol:
            chosen |= {
                "ssl_cafile": self.kafka_ssl_ca_file,
                "ssl_certfile": self.kafka_ssl_cert_file,
                "ssl_keyfile": self.kafka_ssl_key_file,
                "ssl_password": _text(self.kafka_ssl_key_password),
            }
        if "SASL" in protocol:
            chosen |= {
                "sasl_mechanism": self.kafka_sasl_mechanism,
                "sasl_plain_username": self.kafka_sasl_username,
                "sasl_plain_password": _text(self.kafka_sasl_password),
            }
        return {"security_protocol": protocol} | {name: value for name, value in chosen.items() if value}

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


class _Hidden(str):
    """A secret as client libraries take it, text, that is not shown where one of them prints its settings."""

    def __repr__(self) -> str:
        return "'**********'"


def _text(secret: SecretStr | None) -> str:
    return _Hidden(secret.get_secret_value()) if secret is not None else ""

"""What can be set about profiles: where it listens, and when it calls itself not ready."""

from pydantic import Field

from shared.serving import Serving
from shared.settings import HouseSettings


class ProfilesSettings(HouseSettings):
    """The settings of the profiles service."""

    profiles_port: int = Field(8081, ge=0, le=65535, description="port of profiles; 0 takes a free one and logs it")
    profiles_header_seconds: float = Field(10.0, gt=0, description="a request's headers must be complete by then")
    profiles_keep_alive_seconds: int = Field(65, ge=1, description="an idle connection is kept this long")
    profiles_drain_seconds: float = Field(
        0.0, ge=0, le=5, description="still serving, no longer ready, after the first SIGTERM (for load balancers)"
    )
    profiles_feed_stale_seconds: float = Field(
        10.0, gt=0, description="not ready when `definitions` was not read to its end for this long"
    )
    profiles_scrub_seconds: float = Field(
        3600.0,
        ge=0,
        description="after an erasure the table of personal values is rewritten, at most once in this time",
    )
    profiles_key_grace_seconds: float = Field(
        600.0, ge=0, description="a sealing key may be destroyed when it was not met for so long after it was replaced"
    )
    profiles_audit_per_minute: float = Field(
        6.0, ge=0, le=600, description="customers refolded from the log at random each minute, to find drift; 0: none"
    )
    profiles_trusted_proxies: str = Field(
        "", description="addresses whose X-Forwarded-For and -Proto are believed, comma separated; empty: none"
    )

    @property
    def serving(self) -> Serving:
        """How the server listens."""
        return Serving(
            host=self.host,
            port=self.profiles_port,
            header_seconds=self.profiles_header_seconds,
            keep_alive_seconds=self.profiles_keep_alive_seconds,
            drain_seconds=self.profiles_drain_seconds,
            trusted_proxies=self.profiles_trusted_proxies,
        )

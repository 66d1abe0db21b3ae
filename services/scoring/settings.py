"""What can be set about scoring: where it listens, when it calls itself not ready, and how far a stream is carried."""

from pydantic import Field

from shared.serving import Serving
from shared.settings import HouseSettings

PROFILES_URL = "http://127.0.0.1:8081"


class ScoringSettings(HouseSettings):
    """The settings of the scoring service."""

    scoring_port: int = Field(8082, ge=0, le=65535, description="port of scoring; 0 takes a free one and logs it")
    scoring_header_seconds: float = Field(10.0, gt=0, description="a request's headers must be complete by then")
    scoring_keep_alive_seconds: int = Field(65, ge=1, description="an idle connection is kept this long")
    scoring_drain_seconds: float = Field(
        0.0, ge=0, le=5, description="still serving, no longer ready, after the first SIGTERM (for load balancers)"
    )
    scoring_feed_stale_seconds: float = Field(
        10.0, gt=0, description="not ready when `definitions` was not read to its end for this long"
    )
    scoring_watermark_stale_seconds: float = Field(
        30.0, gt=0, description="not ready when the watermark of an owned partition did not move for this long"
    )
    scoring_streams_max: int = Field(256, ge=1, description="event streams served at once; beyond it 503")
    scoring_stream_events_max: int = Field(
        1000, ge=1, description="events kept for one stream; a slower reader goes on from the log"
    )
    scoring_stream_stall_seconds: float = Field(
        20.0, gt=0, description="a stream whose reader takes nothing for this long is cut off"
    )
    scoring_refit_hours: float = Field(
        168.0,
        ge=0,
        le=8784,
        description="the model is fitted to each workspace's own customers so often; 0: when asked",
    )
    scoring_refit_change_min: float = Field(
        0.01, ge=0, le=1, description="a scheduled fit is published when it moves risks by so much on the average"
    )
    scoring_fit_customers_max: int = Field(
        200_000, ge=1_000, description="customers a fit reads in; of more, an even share is drawn by their ids"
    )
    profiles_url: str = Field(
        "", description="where profiles is asked about the past; empty: its usual port on this machine"
    )
    scoring_trusted_proxies: str = Field(
        "", description="addresses whose X-Forwarded-For and -Proto are believed, comma separated; empty: none"
    )

    @property
    def profiles(self) -> str:
        """Where profiles is."""
        return self.profiles_url or PROFILES_URL

    @property
    def serving(self) -> Serving:
        """How the server listens."""
        return Serving(
            host=self.host,
            port=self.scoring_port,
            header_seconds=self.scoring_header_seconds,
            keep_alive_seconds=self.scoring_keep_alive_seconds,
            drain_seconds=self.scoring_drain_seconds,
            trusted_proxies=self.scoring_trusted_proxies,
        )

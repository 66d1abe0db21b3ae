"""Every bound of the door, one documented setting each (`RAFTAR_INGEST_*`)."""

from pydantic import Field

from services.ingest.domain.terms import Limits
from shared.serving import Serving
from shared.settings import HouseSettings


class IngestSettings(HouseSettings):
    """Where the door listens and how much it takes. What is over a bound is refused with the bound's name."""

    ingest_port: int = Field(8080, ge=0, le=65535, description="port of the door; 0 takes a free one and logs it")
    ingest_public_url: str = Field(
        "", description="the door's address as browsers see it, for the settings answer; empty: the request's own host"
    )
    ingest_body_bytes_max: int = Field(4 << 20, ge=1024, description="bytes of one request body as sent")
    ingest_inflated_bytes_max: int = Field(16 << 20, ge=1024, description="bytes of one request body after gunzip")
    ingest_inflight_bytes_max: int = Field(
        64 << 20, ge=1024, description="bytes of all requests in progress; beyond it 503 with Retry-After"
    )
    ingest_turn_seconds_max: float = Field(
        0.5, gt=0, description="a request that waited longer for its turn is answered 503 with Retry-After"
    )
    ingest_log_seconds_max: float = Field(
        5.0, gt=0, description="while an append waits longer for the log new requests are answered 503 with Retry-After"
    )
    ingest_disk_reserve_bytes: int = Field(
        64 << 20,
        ge=0,
        description="free bytes on the disk of an SQLite log below which 503 with Retry-After is the answer",
    )
    ingest_items_max: int = Field(500, ge=1, description="touchpoints in one request")
    ingest_item_bytes_max: int = Field(32 << 10, ge=256, le=256 << 10, description="bytes of one touchpoint")
    ingest_depth_max: int = Field(32, ge=4, le=200, description="nesting of one touchpoint")
    ingest_object_keys_max: int = Field(256, ge=32, description="keys of one object in a touchpoint")
    ingest_header_seconds: float = Field(10.0, gt=0, description="a request's headers must be complete by then")
    ingest_body_seconds: float = Field(30.0, gt=0, description="a request's body must be complete by then")
    ingest_keep_alive_seconds: int = Field(65, ge=1, description="an idle connection is kept this long")
    ingest_drain_seconds: float = Field(
        0.0, ge=0, le=5, description="still serving, no longer ready, after the first SIGTERM (for load balancers)"
    )
    ingest_import_idle_seconds: float = Field(
        3600.0, gt=0, description="a history import without a touchpoint for this long is closed by the door"
    )
    ingest_feed_stale_seconds: float = Field(
        10.0, gt=0, description="not ready when `definitions` was not read to its end for this long"
    )
    ingest_default_currency: str = Field(
        "", pattern="^([A-Z]{3})?$", description="ISO 4217 code for money sent without a currency; empty: refused"
    )
    ingest_trusted_proxies: str = Field(
        "", description="addresses whose X-Forwarded-For and -Proto are believed, comma separated; empty: none"
    )

    @property
    def limits(self) -> Limits:
        """Bounds of one item, for the domain."""
        return Limits(
            items=self.ingest_items_max,
            item_bytes=self.ingest_item_bytes_max,
            depth=self.ingest_depth_max,
            object_keys=self.ingest_object_keys_max,
        )

    @property
    def serving(self) -> Serving:
        """How the server listens."""
        return Serving(
            host=self.host,
            port=self.ingest_port,
            header_seconds=self.ingest_header_seconds,
            body_seconds=self.ingest_body_seconds,
            keep_alive_seconds=self.ingest_keep_alive_seconds,
            drain_seconds=self.ingest_drain_seconds,
            trusted_proxies=self.ingest_trusted_proxies,
        )

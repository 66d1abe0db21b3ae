"""What a service and its fitting process say to each other."""

from typing import Any

import msgspec


class FitOrder(msgspec.Struct, frozen=True):
    """What to fit. `zone`, `trust_min`, `day_ms`: what an order is, as the rules in force say · `at`: epoch ms."""

    database_url: str
    data_dir: str
    partitions: int
    workspace: str
    zone: str
    trust_min: int
    day_ms: int | None
    at: int
    model: dict[str, Any]
    change_min: float
    customers_max: int


class FitAnswer(msgspec.Struct, frozen=True):
    """A line of the process. `customers` read so far · `read_all`: all of them.

    The last line has `model`, or `refused`: why there is none, or `failed`: what went wrong. `differs`: the model does,
    enough to be worth a version.
    """

    customers: int
    read_all: bool = False
    model: dict[str, Any] | None = None
    differs: bool = False
    refused: str = ""
    failed: str = ""

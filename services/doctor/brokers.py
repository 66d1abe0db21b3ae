"""The Kafka brokers: each that is named answers, is new enough, and understands what Raftar asks."""

from collections.abc import AsyncIterator

from services.doctor.finding import Finding, fail, kafka_broker, warn
from shared.errors import Stopped
from shared.log import kafka_wire as wire
from shared.log.kafka_brokers import addresses
from shared.log.kafka_clients import broker_version
from shared.log.kafka_connection import Unreachable, understood
from shared.settings import HouseSettings

NEEDED = (*wire.NEEDED, wire.TOPIC_IDS)


async def brokers(settings: HouseSettings) -> AsyncIterator[Finding]:
    """One finding for each of RAFTAR_KAFKA_BOOTSTRAP; it is enough that one of them answers."""
    try:
        named = addresses(settings.kafka_bootstrap)
    except Stopped as error:
        yield fail("kafka", str(error), "set RAFTAR_KAFKA_BOOTSTRAP=host:port[,host:port]")
        return
    silent: list[str] = []
    for host, port in named:
        try:
            spoken = await understood(host, port, settings.kafka_security)
        except Unreachable as error:
            silent.append(str(error))
        else:
            yield kafka_broker(f"{host}:{port}", broker_version(spoken), wire.lacking(spoken, NEEDED))
    step = (
        "start it, or name brokers that run in RAFTAR_KAFKA_BOOTSTRAP; it must listen there for "
        f"{settings.kafka_security_protocol} (RAFTAR_KAFKA_SECURITY_PROTOCOL; with SSL also RAFTAR_KAFKA_SSL_CA_FILE)"
    )
    for why in silent:
        said = f"no broker can be reached at {why}"
        yield fail("kafka", said, step) if len(silent) == len(named) else warn("kafka", said, step)

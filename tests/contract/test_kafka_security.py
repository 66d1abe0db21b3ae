"""Encryption and passwords towards Kafka: they reach every connection there is, and are shown to nobody."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import KafkaAdminClient, ScramMechanism, UserScramCredentialUpsertion
from pydantic import ValidationError

from shared.clock import SystemClock
from shared.errors import NotAccepting
from shared.log import kafka_clients, kafka_ownership, kafka_stamped
from shared.log.kafka import KafkaLog
from shared.log.kafka_ownership import KafkaOwnership
from shared.log.kafka_stamped import StampedKafka
from shared.log.port import Topic
from shared.settings import HouseSettings
from tests.contract.test_log_kafka import until
from tests.support.kafka_broker import Broker, BrokerMissingError, fetch_jars
from tests.support.logs import read_all, texts, values
from tests.support.required import unavailable

USER, PASSWORD = "raftar", "not-for-any-log"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that asks who comes."""
    made = Broker(tmp_path_factory.mktemp("guarded"), users={USER: PASSWORD})
    try:
        fetch_jars()
        made.start()
    except BrokerMissingError as error:
        unavailable("Kafka", str(error))
    admin = KafkaAdminClient(bootstrap_servers=made.bootstrap)
    admin.alter_user_scram_credentials(
        [UserScramCredentialUpsertion(USER, ScramMechanism.SCRAM_SHA_512, PASSWORD, iterations=4096)]
    )
    admin.close()
    yield made
    made.kill9()


def settings(
    broker: Broker, protocol: str, mechanism: str, password: str = PASSWORD, ca_file: str = ""
) -> HouseSettings:
    chosen: dict[str, Any] = {
        "kafka_bootstrap": broker.bootstrap_of(protocol),
        "kafka_security_protocol": protocol,
        "kafka_sasl_mechanism": mechanism,
        "kafka_sasl_username": USER,
        "kafka_sasl_password": password,
        "kafka_ssl_ca_file": ca_file or (str(broker.ca_file) if protocol == "SASL_SSL" else ""),
    }
    return HouseSettings(**chosen)


def log_of(chosen: HouseSettings) -> KafkaLog:
    return KafkaLog(chosen.kafka_bootstrap, SystemClock(), security=chosen.kafka_security)


@pytest.fixture
async def opened() -> AsyncIterator[list[KafkaLog]]:
    """Logs put here are closed with the test."""
    logs: list[KafkaLog] = []
    yield logs
    await asyncio.gather(*(log.close() for log in logs))


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("protocol", "mechanism"),
    [
        ("SASL_PLAINTEXT", "PLAIN"),
        ("SASL_PLAINTEXT", "SCRAM-SHA-512"),
        ("SASL_SSL", "PLAIN"),
        ("SASL_SSL", "SCRAM-SHA-512"),
    ],
)
async def test_everything_works_with_a_password(
    guarded: Broker,
    opened: list[KafkaLog],
    protocol: str,
    mechanism: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO)  # at DEBUG the client library prints all it sends; `start_logging` silences it
    chosen, topic = settings(guarded, protocol, mechanism), f"{protocol}-{mechanism}"
    log = log_of(chosen)
    opened.append(log)
    await log.ensure([Topic(topic, 2)])
    await log.append(topic, [*values(0, "a", "b"), *values(1, "c")])
    assert sorted(texts(await read_all(log, topic))) == ["a", "b", "c"]
    assert await log.identity(topic)
    group = KafkaOwnership(chosen.kafka_bootstrap, topic, [topic], SystemClock(), settings=chosen.kafka_security)
    await group.start()
    await until(lambda: group.assigned() == frozenset({0, 1}), 30, "the group gave its partitions")
    await group.close()

    copy = StampedKafka(chosen.kafka_bootstrap, f"{topic}.copy.", chosen.kafka_security)
    await asyncio.to_thread(copy.make, [Topic("t", 1)])
    await asyncio.to_thread(copy.append, "t", 1_700_000_000_000, values(0, "old"))
    await asyncio.to_thread(copy.finish)
    assert texts(await read_all(log, f"{topic}.copy.t")) == ["old"]
    said = capsys.readouterr()
    assert PASSWORD not in caplog.text + said.out + said.err + repr(chosen)


@pytest.mark.kafka
async def test_a_wrong_password_and_an_unknown_certificate_are_said(
    guarded: Broker, opened: list[KafkaLog], tmp_path: Path
) -> None:
    wrong = log_of(settings(guarded, "SASL_PLAINTEXT", "PLAIN", password="guessed"))
    strange = log_of(settings(guarded, "SASL_SSL", "PLAIN", ca_file=_other_authority(tmp_path)))
    opened += [wrong, strange]
    with pytest.raises(NotAccepting):
        await wrong.ensure([Topic("never", 1)])
    for log, why in ((wrong, "SaslAuthenticationFailed"), (strange, "CERTIFICATE_VERIFY_FAILED")):
        log._partitions["never"] = 1  # as if it had been described before the brokers were given other secrets
        with pytest.raises(NotAccepting, match=why):
            await log.bounds("never")


def _other_authority(folder: Path) -> str:
    other = Broker(folder, users={USER: PASSWORD})
    other._key_and_certificate()
    return str(other.ca_file)


def test_the_settings_reach_every_client(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = HouseSettings(
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="SCRAM-SHA-256",
        kafka_sasl_username=USER,
        kafka_sasl_password=PASSWORD,
        kafka_ssl_ca_file="ca.pem",
        kafka_ssl_cert_file="own.pem",
        kafka_ssl_key_file="own.key",
        kafka_ssl_key_password="opens",
    )
    wanted = {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": USER,
        "sasl_plain_password": PASSWORD,
        "ssl_cafile": "ca.pem",
        "ssl_certfile": "own.pem",
        "ssl_keyfile": "own.key",
        "ssl_password": "opens",
    }
    assert chosen.kafka_security == wanted
    made: list[str] = []

    def client(name: str) -> Any:
        def make(**given: Any) -> Any:
            assert given.items() >= wanted.items(), name
            made.append(name)
            raise OSError("made, and that is enough")

        return make

    monkeypatch.setattr(kafka_clients, "KafkaAdminClient", client("questions"))
    monkeypatch.setattr(kafka_stamped, "KafkaAdminClient", client("topics of a copy"))
    monkeypatch.setattr(kafka_ownership, "KafkaConsumer", client("group"))
    log = KafkaLog("127.0.0.1:1", SystemClock(), security=chosen.kafka_security)
    with pytest.raises(NotAccepting):
        log._asker._answer(lambda _: None)
    with pytest.raises(OSError, match="enough"):
        StampedKafka("127.0.0.1:1", "x.", chosen.kafka_security).make([])
    with pytest.raises(OSError, match="enough"):
        KafkaOwnership("127.0.0.1:1", "g", ["t"], SystemClock(), settings=chosen.kafka_security)._join()
    assert made == ["questions", "topics of a copy", "group"]
    assert log._offsets._brokers._settings == wanted


def test_a_user_without_a_password_does_not_start() -> None:
    with pytest.raises(ValidationError, match="RAFTAR_KAFKA_SASL_PASSWORD") as refused:
        HouseSettings(kafka_security_protocol="SASL_SSL", kafka_sasl_username=USER)
    assert PASSWORD not in str(refused.value)

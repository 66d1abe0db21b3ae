"""A real single-node Apache Kafka broker (KRaft) without containers, for the tests and for `make kafka`.

The jars are fetched once by Maven into a cache that git ignores. The broker is a child process that is ended by its
saved process id and, on Linux, by the kernel when its parent dies, so it never outlives whoever started it.

    python -m tests.support.kafka_broker --fetch-only        fetch the jars and exit
    python -m tests.support.kafka_broker --data DIR          run a broker in the foreground until Ctrl-C
"""

import argparse
import atexit
import base64
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
RECIPE = Path(__file__).parent / "kafka_jars" / "pom.xml"
START_SECONDS = 90.0
"""A start after a kill -9 recovers every partition first; on a slow machine with many topics that takes a while."""

DIE_WITH_PARENT = """
import os, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Runs before Java, in its process: the id stays the same, and no Python code runs between fork and exec."""


class BrokerMissingError(Exception):
    """The broker cannot be started here; the message says what to install."""


def cache_folder() -> Path:
    """Where the jars are kept: RAFTAR_KAFKA_CACHE, else `.cache/kafka` in the project."""
    return Path(os.environ.get("RAFTAR_KAFKA_CACHE") or PROJECT / ".cache" / "kafka")


def fetch_jars() -> Path:
    """The folder of the broker's jars, fetched by Maven when absent (about 43 MB).

    Raises BrokerMissingError when `java` or `mvn` is not installed, or Maven fails (its last lines are in the message).
    """
    if shutil.which("java") is None:
        raise BrokerMissingError("no `java` on the PATH; install a Java 17 runtime (Debian: openjdk-17-jre-headless)")
    cache = cache_folder()
    libs = cache / "libs"
    if libs.is_dir():
        return libs
    if shutil.which("mvn") is None:
        raise BrokerMissingError(
            "no `mvn` on the PATH; install Maven (Debian: maven) so that the broker's jars can be fetched"
        )
    cache.mkdir(parents=True, exist_ok=True)
    partial = cache / f"libs.{os.getpid()}.partial"
    command = ["mvn", "-B", "-ntp", "-q", "-f", str(RECIPE), "dependency:copy-dependencies"]
    command += [f"-DoutputDirectory={partial}", "-DincludeScope=runtime"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        shutil.rmtree(partial, ignore_errors=True)
        raise BrokerMissingError(
            "Maven could not fetch the broker's jars:\n" + "\n".join(done.stdout.splitlines()[-15:])
        )
    try:
        partial.rename(libs)
    except OSError:  # somebody else was first; theirs is as good
        shutil.rmtree(partial, ignore_errors=True)
    return libs


def free_ports(count: int) -> list[int]:
    """`count` different loopback ports that nobody listens on now."""
    with _bound(count) as sockets:
        return [taken.getsockname()[1] for taken in sockets]


@contextmanager
def _bound(count: int) -> Iterator[list[socket.socket]]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for taken in sockets:
            taken.bind(("127.0.0.1", 0))
        yield sockets
    finally:
        for taken in sockets:
            taken.close()


class Broker:
    """One broker on two loopback ports with a data folder of its own; both outlive a kill and a new start."""

    def __init__(
        self, folder: Path, *, port: int | None = None, heap_mb: int = 512, users: Mapping[str, str] | None = None
    ) -> None:
        """`users`: name → password; with them there are listeners that ask who comes, `bootstrap_of` each protocol."""
        self.folder, self._heap_mb, self._users = folder, heap_mb, dict(users or {})
        broker_port, controller_port, *sasl_ports = free_ports(4)
        self._sasl_ports = dict(zip(("SASL_PLAINTEXT", "SASL_SSL"), sasl_ports, strict=True))
        self.port, self._controller_port = port or broker_port, controller_port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """Bootstrap servers, `host:port`."""
        return f"127.0.0.1:{self.port}"

    def bootstrap_of(self, protocol: str) -> str:
        """Where users are asked for their password: SASL_PLAINTEXT or SASL_SSL."""
        return f"127.0.0.1:{self._sasl_ports[protocol]}"

    @property
    def ca_file(self) -> Path:
        """What the certificate of the encrypted listener is checked by: it is its own authority."""
        return self.folder / "certificate.pem"

    @property
    def pid(self) -> int:
        """Process id of the running broker."""
        assert self._process is not None, "the broker is not running"
        return self._process.pid

    def start(self) -> None:
        """Format the data folder if it is fresh, launch, and return when the broker takes connections."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start the process without waiting. Call it from the main thread: the kernel ties the broker's life to the
        thread that started it."""
        assert self._process is None, "the broker is running already"
        classpath = f"{fetch_jars()}/*"
        self.folder.mkdir(parents=True, exist_ok=True)
        properties = self.folder / "server.properties"
        properties.write_text(self._properties())
        with (self.folder / "broker.log").open("ab") as output:
            if not (self.folder / "data").exists():
                named = b"\0" + secrets.token_bytes(15)  # a first character "-" would be taken for an option
                cluster = base64.urlsafe_b64encode(named).decode().rstrip("=")
                tool = ["kafka.tools.StorageTool", "format", "--standalone", "-t", cluster, "-c", str(properties)]
                subprocess.run(["java", "-cp", classpath, *tool], check=True, stdout=output, stderr=output)
            java = ["java", f"-Xmx{self._heap_mb}m", "-Xms256m", "-cp", classpath, "kafka.Kafka", str(properties)]
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, *java],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in a terminal reaches the test run first, which then ends the broker
            )
        atexit.register(self.kill9)

    def wait_until_ready(self) -> None:
        """Return when the broker takes connections; raises RuntimeError with the end of its log when it does not."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.alive():
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.05)
        raise RuntimeError(f"the Kafka broker did not start:\n{self.output()[-3000:]}")

    def kill9(self) -> None:
        """End it at once, as a power cut of the process would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """Stop it from running without closing its connections (SIGSTOP); returns when its last thread stands."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let a frozen broker run again."""
        os.kill(self.pid, signal.SIGCONT)

    def output(self) -> str:
        """What it printed so far."""
        return (self.folder / "broker.log").read_text(errors="replace")

    def alive(self) -> bool:
        """Whether its process runs (a frozen one does)."""
        return self._process is not None and self._process.poll() is None

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        atexit.unregister(self.kill9)
        with suppress(ProcessLookupError):
            os.kill(process.pid, how)
            os.kill(process.pid, signal.SIGCONT)  # a frozen process takes no SIGTERM
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _properties(self) -> str:
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": str(self.folder / "data"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
        }
        if self._users:
            self._secure(settings)
        return "".join(f"{name}={value}\n" for name, value in settings.items())

    def _secure(self, settings: dict[str, str]) -> None:
        """Listeners with SASL PLAIN and SCRAM, in the clear and encrypted."""
        known = " ".join(f'user_{user}="{password}"' for user, password in self._users.items())
        modules = "org.apache.kafka.common.security"
        settings["sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-512"
        for protocol in self._sasl_ports:
            for name in ("listeners", "advertised.listeners"):
                settings[name] += f",{protocol}://{self.bootstrap_of(protocol)}"
            settings["listener.security.protocol.map"] += f",{protocol}:{protocol}"
            listener = f"listener.name.{protocol.lower()}"
            settings[f"{listener}.plain.sasl.jaas.config"] = f"{modules}.plain.PlainLoginModule required {known};"
            scram = f"{modules}.scram.ScramLoginModule required;"
            settings[f"{listener}.scram-sha-512.sasl.jaas.config"] = scram
        settings["listener.name.sasl_ssl.ssl.keystore.type"] = "PEM"
        settings["listener.name.sasl_ssl.ssl.keystore.location"] = str(self._key_and_certificate())

    def _key_and_certificate(self) -> Path:
        both, key = self.folder / "keystore.pem", self.folder / "key.pem"
        if not both.exists():
            if shutil.which("openssl") is None:
                raise BrokerMissingError("no `openssl` on the PATH; a broker with an encrypted listener needs it")
            make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
            make += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(self.ca_file)]
            subprocess.run(make, check=True, capture_output=True)
            both.write_text(key.read_text() + self.ca_file.read_text())
        return both


def _serve(folder: Path, port: int | None) -> None:
    broker = Broker(folder, port=port)
    broker.start()
    print(
        f"bootstrap servers: {broker.bootstrap}\nRAFTAR_KAFKA_BOOTSTRAP={broker.bootstrap}\nCtrl-C ends it.", flush=True
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while broker.alive():
            time.sleep(0.2)
        sys.exit(f"the broker ended by itself:\n{broker.output()[-3000:]}")
    except KeyboardInterrupt:
        broker.stop()


def main() -> None:
    """The command line; see the module's own text."""
    parser = argparse.ArgumentParser(description="A real single-node Kafka broker for development and tests.")
    parser.add_argument("--fetch-only", action="store_true", help="fetch the jars and exit")
    parser.add_argument("--data", type=Path, default=PROJECT / "data" / "kafka", help="data folder of the broker")
    parser.add_argument("--port", type=int, help="port to listen on (default: a free one)")
    chosen = parser.parse_args()
    try:
        if chosen.fetch_only:
            print(fetch_jars())
        else:
            _serve(chosen.data, chosen.port)
    except BrokerMissingError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

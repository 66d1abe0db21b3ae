"""The search finds a value in every form a store may hold it in, also across blocks and holes, and nothing else."""

import base64
from pathlib import Path

import pytest

from tests.support import searching
from tests.support.searching import found, wanted

VALUE = "Sára Canary77x"


@pytest.mark.parametrize(
    "kept",
    [
        VALUE.encode(),
        VALUE.lower().encode(),
        *(base64.b64encode(b"x" * n + VALUE.encode() + b"yz") for n in range(4)),
        base64.urlsafe_b64encode(b"?" + VALUE.encode()),
        VALUE.encode().hex().encode(),
        VALUE.encode("unicode_escape"),
    ],
)
def test_each_form_is_found(kept: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "BLOCK_BYTES", 8192)
    with (tmp_path / "file").open("wb") as file:
        file.seek(1 << 22)  # a hole
        file.write(b"." * (8192 - 7) + kept + b"." * 10_000)
    (tmp_path / "other").write_bytes(b"nothing " * 1_000)
    values = {"sara": wanted(VALUE, "Canary77x", "canary77x"), "nobody": wanted("Nobody Ever99")}
    assert found([tmp_path], values) == {"sara": [str(tmp_path / "file")], "nobody": []}

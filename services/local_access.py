"""What the command line needs to reach the house here: URLs and keys, in one file only its owner may read."""

import os
from pathlib import Path

import msgspec

FILE_NAME = "cli.json"
OWNER_ONLY = 0o600
FOLDER_OWNER_ONLY = 0o700


class LocalAccess(msgspec.Struct, frozen=True, kw_only=True):
    """URLs of the three services and the two keys made at first start. An empty text means: not known yet."""

    workspace: str
    write_key: str = ""
    secret_key: str = ""
    ingest_url: str = ""
    profiles_url: str = ""
    scoring_url: str = ""


def load(data_dir: Path) -> LocalAccess | None:
    """The file in `data_dir`; None when there is none. Raises ValueError, naming the file, when it is damaged."""
    path = data_dir / FILE_NAME
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(text, type=LocalAccess)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path} is damaged ({error}); `python -m services init --new-keys` writes it anew") from error


def save(data_dir: Path, access: LocalAccess) -> Path:
    """Replace the file in one step, flushed, mode 600 from its first byte on. Returns its path."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=FOLDER_OWNER_ONLY)
    path = data_dir / FILE_NAME
    write_privately(path, msgspec.json.format(msgspec.json.encode(access)) + b"\n")
    return path


def write_privately(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, flush, then take its place: a crash leaves the old file or the new one."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, OWNER_ONLY)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)

"""How far an import came, kept beside the other local data so that an interrupted one goes on where it stopped."""

from hashlib import blake2b
from pathlib import Path

import msgspec

from services.cli.importing.rows import Source
from services.local_access import FOLDER_OWNER_ONLY, write_privately

CHUNK_BYTES = 1 << 20
FOLDER = "imports"


class Progress(msgspec.Struct, kw_only=True):
    """One import of one file. `rows_done`: rows answered for good; `finished`: `import.finished` was acknowledged."""

    file: str
    import_id: str = ""
    rows_done: int = 0
    accepted: int = 0
    refused: int = 0
    finished: bool = False


class Bookmark:
    """The file that holds a Progress; its name is a hash of what is imported and where to."""

    def __init__(self, data_dir: Path, source: Source, target: str) -> None:
        self.path = data_dir / FOLDER / f"{name_of(source, target)}.json"
        self._file = str(source.path)

    def load(self) -> Progress:
        """What was saved; a fresh Progress when nothing was, or when the file is damaged (rows are deduplicated)."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Progress)
        except (FileNotFoundError, msgspec.MsgspecError):
            return Progress(file=self._file)

    def save(self, progress: Progress) -> None:
        """Replace what was saved, in one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_OWNER_ONLY)
        write_privately(self.path, msgspec.json.encode(progress))


def name_of(source: Source, target: str) -> str:
    """32 hexadecimal digits that depend on the file's bytes, how they are read, and the workspace they go to."""
    digest = blake2b(digest_size=16)
    digest.update(f"{source.description()}\0{target}\0".encode())
    with source.path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()

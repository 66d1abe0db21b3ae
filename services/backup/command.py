"""`backup` and `restore` as people and scripts see them: progress on a terminal, a summary, JSON, the next step."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from services.backup.manifest import Manifest
from services.backup.restore import check, missing_keys, restore
from services.backup.save import Told, back_up
from shared.clock import Clock
from shared.settings import HouseSettings


def backup_command(
    settings: HouseSettings, folder: Path, clock: Clock, console: Console, *, with_keys: bool, as_json: bool
) -> int:
    """Back up and say what was done. Raises RaftarError with the next step."""
    with _progress(console, "Backing up", as_json) as told:
        manifest = back_up(settings, folder, clock, told, with_keys)
    if as_json:
        _print_json(console, {"folder": str(folder), **_summary(manifest)})
        return 0
    _print(
        console, f"{_told(manifest)} in {folder}, as of {_moment(manifest)}; every file was read again and is sound."
    )
    if with_keys:
        said = "The keys are in it: whoever has this folder can read every name and email. Keep it as safe as the keys."
    else:
        said = (
            f"The keys are NOT in it. Without {settings.data_dir / 'keys'} nobody is recognised after a restore, and "
            "names in the log stay unreadable: copy that folder to another place, once and after each new workspace or "
            "key. They are kept apart because who has both can read everything; --with-keys puts them in."
        )
    console.print(said, style="bold yellow", markup=False, highlight=False, soft_wrap=True)
    _print(console, "The profiles database in it holds names and emails in the clear: give this folder to nobody else.")
    return 0


def restore_command(
    folder: Path, data_dir: Path, console: Console, *, keys: Path | None, only_check: bool, as_json: bool
) -> int:
    """Restore, or only check, and say what comes next. Raises RaftarError with the next step."""
    with _progress(console, "Checking" if only_check else "Restoring", as_json) as told:
        manifest = check(folder, told) if only_check else restore(folder, data_dir, told, keys)
    missing = [] if only_check else missing_keys(manifest, data_dir)
    if as_json:
        _print_json(console, {"folder": str(folder), **_summary(manifest), "missing": missing})
    elif only_check:
        _print(console, f"{_told(manifest)}, as of {_moment(manifest)}: this backup is whole and can be restored.")
    else:
        _print(console, f"{_told(manifest)} are in {data_dir}, as of {_moment(manifest)}.")
        for line in missing:
            console.print(f"Still to do: {line}.", style="bold yellow", markup=False, highlight=False, soft_wrap=True)
        _print(console, "Next: `raftar doctor`, then start the house; it goes on where the backup was taken.")
    return 0


def _summary(manifest: Manifest) -> dict[str, Any]:
    return {
        "taken_at": manifest.taken_at,
        "raftar": manifest.raftar,
        "workspace": manifest.workspace,
        "partitions": manifest.partitions,
        "files": len(manifest.files),
        "size_bytes": manifest.size_bytes,
        "with_keys": manifest.with_keys,
        "ends": {name: [end for _, end in topic.bounds] for name, topic in manifest.topics.items()},
    }


def _told(manifest: Manifest) -> str:
    return f"{len(manifest.files)} files, {manifest.size_bytes / (1 << 20):.1f} MiB"


def _moment(manifest: Manifest) -> str:
    return f"{datetime.fromtimestamp(manifest.taken_at / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _print_json(console: Console, value: Any) -> None:
    _print(console, msgspec.json.encode(value).decode())


@contextmanager
def _progress(console: Console, what: str, as_json: bool) -> Iterator[Told]:
    columns = (
        TextColumn(what),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[file]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=as_json or not console.is_terminal) as shown:
        task = shown.add_task(what, total=None, file="")

        def told(file: str, done_bytes: int, total_bytes: int) -> None:
            shown.update(task, completed=done_bytes, total=total_bytes, file=file)

        yield told

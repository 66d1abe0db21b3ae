"""What a check found: fine, worth a look, or broken, with the next step. And judgements that need no machine. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

import msgspec

GIB = 1 << 30


class Level(StrEnum):
    """How bad it is. FAIL makes the exit code 1."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True):
    """One result: of which check, how bad, what is so, and what to do ("" where nothing is to be done)."""

    check: str
    level: Level
    says: str
    next_step: str = ""


def ok(check: str, says: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, says)


def warn(check: str, says: str, next_step: str) -> Finding:
    """It works, and somebody should look."""
    return Finding(check, Level.WARN, says, next_step)


def fail(check: str, says: str, next_step: str) -> Finding:
    """It does not work, or will not."""
    return Finding(check, Level.FAIL, says, next_step)


def failed(findings: Iterable[Finding]) -> bool:
    """Whether anything is broken."""
    return any(finding.level is Level.FAIL for finding in findings)


def disk(free_bytes: int, reserve_bytes: int, what: str) -> Finding:
    """The door refuses below the reserve; four times as much, or a GiB, is the time to act."""
    told = f"{free_bytes / GIB:.1f} GiB are free for {what}, the reserve is {reserve_bytes >> 20} MiB"
    step = f"make room on the disk of {what}, or give the house another one (backup, then restore there)"
    if free_bytes < reserve_bytes:
        return fail("disk", f"{told}: the door refuses events with 503", step)
    if free_bytes < max(4 * reserve_bytes, GIB):
        return warn("disk", told, step)
    return ok("disk", told)


def clock_steps(wall_ms: float, monotonic_ms: float) -> Finding:
    """How far the wall clock and the monotonic one went in the same moment: apart, somebody sets the clock."""
    apart = abs(wall_ms - monotonic_ms)
    if apart > 20:
        return warn(
            "clock",
            f"the wall clock went {wall_ms:.0f} ms while {monotonic_ms:.0f} ms passed",
            "let one time service slew the clock (chrony, ntpd), never set it by hand while the house runs",
        )
    return ok("clock", "the wall clock runs as fast as time passes")


def stamps(what: str, apart_ms: int, allowance_ms: int) -> Finding:
    """Our clock against another's of this moment: `apart_ms` is theirs less ours."""
    if abs(apart_ms) > allowance_ms:
        way = "ahead of" if apart_ms > 0 else "behind"
        return fail(
            "clock",
            f"{what} is {abs(apart_ms)} ms {way} this machine's clock, {allowance_ms} ms are allowed",
            "set the clocks of both machines by one time service; until then silence waits, and no alert is false",
        )
    return ok("clock", f"{what} and this machine's clock are {abs(apart_ms)} ms apart")


KAFKA_MIN = (3, 7)


def kafka_broker(where: str, version: Sequence[int], lacking: Sequence[str]) -> Finding:
    """Its version by what it understands, and what it does not understand although Raftar asks it."""
    shown, least = (".".join(map(str, one)) for one in (version, KAFKA_MIN))
    step = f"update the brokers to Kafka {least} or newer (tested: 4.1), one after another, then ask again"
    if lacking:
        return fail("kafka", f"{where} is about Kafka {shown} and does not understand {', '.join(lacking)}", step)
    if tuple(version) < KAFKA_MIN:
        return warn("kafka", f"{where} is about Kafka {shown}, and nobody tried Raftar below {least}", step)
    return ok("kafka", f"{where} is about Kafka {shown}, and understands all that is needed")


def modes(paths: Mapping[str, int]) -> Finding:
    """Private files by name with their mode bits: nobody but the owner may read any."""
    wide = sorted(name for name, mode in paths.items() if mode & 0o077)
    if wide:
        shown = ", ".join(wide[:3]) + (f" and {len(wide) - 3} more" if len(wide) > 3 else "")
        return fail("keys", f"others can read {shown}", f"chmod go-rwx {' '.join(wide[:3])}")
    return ok("keys", f"{len(paths)} private files are readable by their owner alone")


_BOUND = re.compile(r"(>=|<)\s*([0-9.]+)")


def requirement(line: str, installed: Mapping[str, str]) -> str:
    """What is wrong with one requirement ("name>=1.2,<2; marker"); "" where it is met or does not apply here.

    `installed`: name (small letters, dashes) → version of what is here. Only the bounds `>=` and `<` are looked at.
    """
    wanted, _, marker = line.partition(";")
    if "extra ==" in marker or ("!= 'win32'" in marker.replace('"', "'") and installed.get("sys_platform") == "win32"):
        return ""
    found = re.match(r"[A-Za-z0-9._-]+", wanted.strip())
    name = found[0] if found else wanted
    version = installed.get(plain(name))
    if version is None:
        return f"{name} is missing"
    for sign, bound in _BOUND.findall(wanted):
        is_met = numbers(version) >= numbers(bound) if sign == ">=" else numbers(version) < numbers(bound)
        if not is_met:
            return f"{name} is {version}, wanted {wanted.strip()[len(name) :]}"
    return ""


def plain(name: str) -> str:
    """A package's name as all its spellings share it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, without trailing zeros: "3.40.1" → (3, 40, 1)."""
    found = [int(part) for part in re.findall(r"\d+", re.split(r"[a-z+-]", version, maxsplit=1)[0])]
    while found and found[-1] == 0:
        found.pop()
    return tuple(found)


def shown(findings: Sequence[Finding]) -> str:
    """One sentence about all."""
    count = {level: sum(finding.level is level for finding in findings) for level in Level}
    if count[Level.FAIL]:
        return f"{count[Level.FAIL]} broken, {count[Level.WARN]} worth a look, {count[Level.OK]} fine."
    if count[Level.WARN]:
        return f"Nothing is broken; {count[Level.WARN]} worth a look, {count[Level.OK]} fine."
    return f"All is well: {count[Level.OK]} checks."

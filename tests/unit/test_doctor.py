"""What the doctor makes of figures, with no machine under it."""

import pytest

from services.doctor.finding import (
    GIB,
    Level,
    clock_steps,
    disk,
    fail,
    failed,
    kafka_broker,
    modes,
    numbers,
    ok,
    requirement,
    shown,
    stamps,
    warn,
)

MIB = 1 << 20
INSTALLED = {"fastapi": "0.165.2", "sql-alchemy": "2.1", "sys_platform": "linux"}


@pytest.mark.parametrize(
    ("free", "level"), [(63 * MIB, Level.FAIL), (64 * MIB, Level.WARN), (GIB - 1, Level.WARN), (GIB, Level.OK)]
)
def test_the_disk_is_judged_by_the_doors_reserve(free: int, level: Level) -> None:
    assert disk(free, 64 * MIB, "data").level is level


def test_a_reserve_of_many_gib_warns_at_four_times_as_much() -> None:
    assert disk(19 * GIB, 5 * GIB, "data").level is Level.WARN
    assert disk(20 * GIB, 5 * GIB, "data").level is Level.OK


@pytest.mark.parametrize(("apart", "level"), [(0, Level.OK), (-250, Level.OK), (251, Level.FAIL), (-251, Level.FAIL)])
def test_clocks_may_be_apart_by_the_allowance(apart: int, level: Level) -> None:
    found = stamps("PostgreSQL", apart, 250)
    assert found.level is level
    assert level is Level.OK or ("ahead of" if apart > 0 else "behind") in found.says


def test_a_clock_that_is_set_while_we_look_is_seen() -> None:
    assert clock_steps(300, 301).level is Level.OK
    assert clock_steps(3_600_300, 300).level is Level.WARN
    assert clock_steps(-500, 300).level is Level.WARN


def test_private_files_that_others_can_read_are_named() -> None:
    assert modes({"leaf.secret": 0o100600}).level is Level.OK
    found = modes({"leaf.secret": 0o100640, "cli.json": 0o100600})
    assert (found.level, found.next_step) == (Level.FAIL, "chmod go-rwx leaf.secret")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fastapi>=0.165,<1", ""),
        ("fastapi>=0.165.3,<1", "fastapi is 0.165.2, wanted >=0.165.3,<1"),
        ("fastapi>=0.1,<0.165", "fastapi is 0.165.2, wanted >=0.1,<0.165"),
        ("SQL_Alchemy>=2.1.0", ""),
        ("absent>=1", "absent is missing"),
        ("absent>=1; extra == 'dev'", ""),
        ('absent; extra == "dev"', ""),
    ],
)
def test_requirements_are_held_against_what_is_installed(line: str, said: str) -> None:
    assert requirement(line, INSTALLED) == said


def test_versions_compare_as_numbers() -> None:
    assert numbers("3.9") < numbers("3.10") < numbers("3.10.1") < numbers("4.0.0rc1")
    assert numbers("2.1.0") == numbers("2.1")


def test_one_broken_thing_is_enough() -> None:
    findings = [ok("a", "fine"), warn("b", "look", "do"), fail("c", "broken", "do")]
    assert failed(findings)
    assert not failed(findings[:2])
    assert shown(findings) == "1 broken, 1 worth a look, 1 fine."
    assert "Nothing is broken" in shown(findings[:2])
    assert shown(findings[:1]) == "All is well: 1 checks."


@pytest.mark.parametrize(
    ("version", "lacking", "level"),
    [((4, 1), [], Level.OK), ((3, 7), [], Level.OK), ((3, 6), [], Level.WARN), ((2, 3), ["Metadata v10"], Level.FAIL)],
)
def test_brokers_are_judged_by_what_they_understand(version: tuple[int, ...], lacking: list[str], level: Level) -> None:
    found = kafka_broker("kafka-1:9092", version, lacking)
    assert found.level is level
    assert ("3.7 or newer" in found.next_step) is (level is not Level.OK)

"""Chunks of the outbox: at most one row per key, each key in its order, and nothing passes a barrier."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shared.outbox import Pending, chunks


def rows(keys: str) -> list[Pending]:
    """One row per letter, numbered in order; `|` has no key."""
    return [Pending(n, "t", 0, b"" if key == "|" else key.encode(), b"") for n, key in enumerate(keys)]


def cut(keys: str) -> list[str]:
    """The chunks as letters."""
    letters = [(row.key.decode() or "|") for row in rows(keys)]
    return ["".join(letters[row.seq] for row in chunk) for chunk in chunks(rows(keys))]


def test_a_key_comes_once_in_a_chunk() -> None:
    assert cut("abcab") == ["abc", "ab"]
    assert cut("aaab") == ["ab", "a", "a"]
    assert cut("") == []


def test_a_row_without_a_key_goes_alone_behind_all_before_it() -> None:
    assert cut("aba|ab") == ["ab", "a", "|", "ab"]
    assert cut("||a") == ["|", "|", "a"]


@given(st.text("abcd|", max_size=30))
def test_every_row_leaves_once_and_no_key_and_no_barrier_is_overtaken(keys: str) -> None:
    given_rows, made = rows(keys), list(chunks(rows(keys)))
    sent = [row for chunk in made for row in chunk]
    assert sorted(sent) == given_rows
    for chunk in made:
        assert len({row.key for row in chunk}) == len(chunk)
        assert len(chunk) == 1 or all(row.key for row in chunk)
    for key in {row.key for row in given_rows}:
        assert all(a.seq < b.seq for a, b in pairwise(row for row in sent if row.key == key))
    for place, row in enumerate(sent):
        if not row.key:
            assert {before.seq for before in sent[:place]} == set(range(row.seq))

"""Server-sent events are read as the standard says, however the bytes are cut."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from services.cli.sse import Message, lines, messages

STREAM = (
    ': hello\n\nevent: churn-alerts\nid: v1\ndata: {"a":"x\u2028y"}\n\n'
    ":\n\nid:v2\r\ndata: one\r\ndata:two\r\n\r\nevent: lost\n\ndata: unfinished\n"
).encode()
SAID = [Message("churn-alerts", '{"a":"x\u2028y"}', "v1"), Message("message", "one\ntwo", "v2")]


def test_messages_comments_ids_and_line_ends() -> None:
    assert list(messages(lines([STREAM]))) == SAID


@given(st.sets(st.integers(1, len(STREAM) - 1)))
def test_cuts_do_not_matter(cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[a:b] for a, b in itertools.pairwise(edges)]
    assert list(messages(lines(chunks))) == SAID


def test_an_id_stays_until_another_comes() -> None:
    assert list(messages(["data: x", ""], last_id="v0")) == [Message("message", "x", "v0")]

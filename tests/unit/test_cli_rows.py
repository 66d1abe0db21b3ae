"""Rows of a file become touchpoints with stable ids, whatever the file's form."""

import gzip
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from services.cli.errors import WrongUse
from services.cli.importing.column_map import ColumnMap, column_map, with_zone
from services.cli.importing.rows import Reading, Row, Source

UTC = ZoneInfo("UTC")
CSV = "customer,date,total,note\n7,2024-05-01,19.90,hello\n8,2024-05-02,,\n7,2024-05-01,19.90,hello\n"


def a_map(*rules: str, zone: ZoneInfo = UTC) -> ColumnMap:
    return column_map(
        rules or ("customer=user_id", "date=occurred_at", "total=properties.amount"), ("kind=purchased",), zone
    )


def rows_of(tmp_path: Path, content: str, columns: ColumnMap | None = None, id_from: tuple[str, ...] = ()) -> list[Row]:
    path = tmp_path / "file"
    path.write_text(content, encoding="utf-8")
    with Reading(Source(path, columns, id_from)) as reading:
        return list(reading)


def ids_of(rows: list[Row]) -> list[str]:
    return [row.item["id"] for row in rows if row.item]


def test_a_csv_row_becomes_a_touchpoint_and_an_empty_cell_leaves_its_field_out(tmp_path: Path) -> None:
    first, second, _ = rows_of(tmp_path, CSV, a_map())
    assert first.item == {
        "id": first.item and first.item["id"],
        "kind": "purchased",
        "user_id": "7",
        "occurred_at": "2024-05-01T00:00:00+00:00",
        "properties": {"amount": "19.90"},
    }
    assert second.item
    assert "properties" not in second.item


def test_ids_are_the_same_at_every_reading_and_equal_rows_stay_two(tmp_path: Path) -> None:
    once, again = rows_of(tmp_path, CSV, a_map()), rows_of(tmp_path, CSV, a_map())
    assert ids_of(once) == ids_of(again)
    assert len(set(ids_of(once))) == 3


def test_a_file_that_grew_at_its_end_repeats_its_old_ids(tmp_path: Path) -> None:
    grown = CSV + "9,2024-05-03,1.00,\n"
    assert ids_of(rows_of(tmp_path, grown, a_map()))[:3] == ids_of(rows_of(tmp_path, CSV, a_map()))


def test_ids_from_columns_do_not_depend_on_the_place(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, CSV, a_map(), id_from=("customer", "date"))
    assert ids_of(rows)[0] == ids_of(rows)[2] != ids_of(rows)[1]


def test_json_lines_keep_their_own_ids_and_bad_lines_say_why(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, '{"id":"a","kind":"logged_in"}\n\n[1]\n{oops\n{"kind":"logged_in"}\n')
    assert [row.number for row in rows] == [1, 3, 4, 5]
    assert rows[0].item == {"id": "a", "kind": "logged_in"}
    assert rows[1].item is None
    assert rows[1].trouble == "not a JSON object"
    assert rows[2].item is None
    assert rows[2].trouble.startswith("not JSON")
    assert rows[3].item
    assert len(rows[3].item["id"]) == 36


def test_gzip_and_a_byte_order_mark_are_read_as_what_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "orders.data"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + CSV.encode()))
    with Reading(Source(path, a_map())) as reading:
        rows = list(reading)
        assert reading.bytes_read() == path.stat().st_size
    assert ids_of(rows) == ids_of(rows_of(tmp_path, CSV, a_map()))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00broken", gzip.compress(CSV.encode(), mtime=0)[:-9]])
def test_what_cannot_be_read_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(WrongUse, match="cannot be read"), Reading(Source(path)) as reading:
        list(reading)


def test_a_missing_column_is_named_with_those_there(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="no column shopper") as caught:
        rows_of(tmp_path, CSV, a_map("shopper=user_id"))
    assert "customer, date, total, note" in caught.value.next_step


def test_types_of_columns_and_what_is_not_of_them(tmp_path: Path) -> None:
    columns = column_map(("n=properties.items:int", "yes=properties.answered:bool"), (), UTC)
    good, bad = rows_of(tmp_path, "n,yes\n3,yes\n3.5,no\n", columns)
    assert good.item
    assert good.item["properties"] == {"items": 3, "answered": True}
    assert bad.item is None
    assert bad.trouble.startswith("column n:")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("customer", "column=field"),
        ("a=user", "did you mean user_id"),
        ("a=properties", "no field"),
        ("a=kind.x", "no field"),
        ("a=user_id:date", "no type 'date'"),
    ],
)
def test_a_rule_that_means_nothing_says_what_would(rule: str, words: str) -> None:
    with pytest.raises(WrongUse, match=words):
        a_map(rule)


def test_times_without_an_offset_are_read_in_the_zone_given() -> None:
    tehran = ZoneInfo("Asia/Tehran")
    assert with_zone("2024-05-01 10:00", tehran) == "2024-05-01T10:00:00+03:30"
    assert with_zone("2024-05-01T10:00:00Z", tehran) == "2024-05-01T10:00:00Z"
    assert with_zone("1714557600", tehran) == "1714557600"

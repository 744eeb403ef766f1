"""Times of all types, as programs write them: in order, or one line."""

import datetime as dt
from typing import Any

import polars as pl
import pytest

from tests.seqrec.table_folder import HEADER, INTERACTIONS, Tables, sequences

MOMENTS = [dt.datetime(2020, 1, 1) + dt.timedelta(hours=hour) for hour in (30, 20, 10)]
START = 1_700_000_000_000_000_000  # nanoseconds, of which a float64 drops the last digits


@pytest.mark.parametrize("extension", [".parquet", ".csv"])
@pytest.mark.parametrize(
    "times",  # the third comes first, then the second, then the first
    [
        pl.Series([30, 20, 10], dtype=pl.Int32),
        pl.Series([0.3, 0.2, 0.1]),
        pl.Series([30.0, 20.0, 10.0], dtype=pl.Float32),
        pl.Series([0.5, 0.0, -7.25]),
        pl.Series([1e300, -1e-300, -1e300]),
        pl.Series(MOMENTS, dtype=pl.Datetime("ms")),
        pl.Series(MOMENTS, dtype=pl.Datetime("ns", "UTC")),
        pl.Series([dt.date(2020, 1, day) for day in (30, 20, 10)]),
        pl.Series(["30", " 20", "10"]),
        pl.Series(["3e1", "20", "1e1"]),
        pl.Series(["40.25", "20", "15.5"]),
        pl.Series([str(START + 2), str(START + 1), str(START)]),
        pl.Series([moment.isoformat() for moment in MOMENTS]),
        pl.Series([moment.isoformat(" ", "minutes") for moment in MOMENTS]),
        pl.Series([moment.isoformat() + "Z" for moment in MOMENTS]),
        pl.Series(["2020-01-30", "2020-01-20", "2020-01-10"]),
        pl.Series(["20200103", "20200102", "20200101"]),
        pl.Series(["9999-12-31", "2020-01-01T00:00:00.000001", "0001-01-01"]),
        # In UTC 10:30, 10:00 and 9:59:59; then 12:00, 10:00:00.5 and 10:00.
        pl.Series(["2020-01-01T10:30:00", "2020-01-01T12:00:00+02:00", "2020-01-01T09:59:59Z"]),
        pl.Series(["2020-01-01T04:00-0800", "2020-01-01 10:00:00.500000", "2020-01-01T10:00"]),
        pl.Series([f"2020-01-01T00:00:00.00000000{digit}" for digit in (3, 2, 1)]),
        pl.Series([f"2020-01-01T00:00:00{rest}Z" for rest in (".0000003", ".00000021", "")]),
        pl.Series([f"2020-01-01 00:00:{seconds} UTC" for seconds in ("03", "02", "01.5")]),
        pl.Series(
            ["2020-01-01 00:00:03+00", "2020-01-01T00:00:02z", "2020-01-01 01:00:01.5 +0100"]
        ),
        pl.Series([f"2020-01-01 00:00:00,{digit}" for digit in (3, 2, 1)]),
    ],
)
def test_times_as_programs_write_them_are_in_order(
    tables: Tables, times: pl.Series, extension: str
) -> None:
    log = pl.DataFrame({"user_id": ["u"] * 3, "item_id": [*"abc"], "timestamp": times})
    assert tables.read(tables.write("log" + extension, log)) == {"u": "cba"}


def test_the_zeros_of_both_signs_are_one_time(tables: Tables) -> None:
    log = {"user_id": ["u"] * 3, "item_id": [*"abc"], "timestamp": [0.0, -0.0, -0.5]}
    assert tables.read(tables.write("log.parquet", log)) == {"u": "cab"}


@pytest.mark.parametrize(
    ("times", "row", "shown"),
    [
        (["30", "20", "soon", "15", "20", "30", "40"], 3, "'soon' is not a time"),
        (["30", "20", "2020-01-01", "15", "20", "30", "40"], 3, "'2020-01-01'"),
        (["2020-01-01"] * 4 + ["2020-13-01"] + ["2020-01-01"] * 2, 5, "'2020-13-01'"),
        (["01/02/2020"] * 7, 1, "'01/02/2020'"),
        # Nanoseconds of this year are beyond 64 bits.
        (["2020-01-01T00:00:00.123456789"] * 6 + ["9999-01-01"], 7, "'9999-01-01'"),
        ([1, 2, 3, 4, 5, None, 7], 6, "'timestamp' is empty"),
        (["1", "2", "3", "4", "5", "6", ""], 7, "'timestamp' is empty"),
        ([1.0, 2.0, float("nan"), 4.0, 5.0, 6.0, 7.0], 3, "nan"),
        ([1.0, 2.0, 3.5, 4.0, float("inf"), 6.0, 7.0], 5, "inf"),
    ],
)
def test_a_time_that_cannot_be_read_is_refused_with_row_and_value(
    tables: Tables, times: list[Any], row: int, shown: str
) -> None:
    message = tables.refusal(INTERACTIONS.with_columns(timestamp=pl.Series(times)))
    assert f"log.parquet, row {row}: " in message
    assert shown in message


def test_a_time_column_of_another_type_is_refused(tables: Tables) -> None:
    assert "--time-column" in tables.refusal(INTERACTIONS.with_columns(timestamp=pl.lit(True)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("u,a,1600000000\nu,b,1600000000000\nu,c,1600000001\n", "milliseconds and seconds"),
        ("1.0,a,1\n1.0,b,2\n1.0,c,3\n", "every user id ends in .0"),
    ],
)
def test_what_is_seldom_meant_is_said(
    tables: Tables, caplog: pytest.LogCaptureFixture, text: str, said: str
) -> None:
    caplog.set_level("INFO")
    tables.read(tables.write("log.csv", f"{HEADER}\n{text}"))
    assert said in caplog.text


@pytest.mark.parametrize("first", [0, 1])
def test_positions_are_refused_for_a_temporal_split_and_fine_for_the_other(
    tables: Tables, first: int
) -> None:
    positions = INTERACTIONS.with_columns(timestamp=pl.Series([1, 1, 0, 0, 0, 2, 2]) + first)
    message = tables.refusal(positions, split="temporal")
    assert "positions and not clock times" in message
    assert "--split leave-one-out" in message
    assert sequences(tables.prepare(positions))["u1"] == ["t", "r", "e"]

"""Times as other programs write them."""

import pytest

from tests.seqrec.table_folder import HEADER, Tables


@pytest.mark.parametrize(
    "times",
    [
        [
            "2020-01-01T00:00:00.000000003",
            "2020-01-01T00:00:00.000000001",
            "2020-01-01T00:00:00.000000002",
        ],
        ["2020-01-01T00:00:00.0000003Z", "2020-01-01T00:00:00Z", "2020-01-01T00:00:00.00000021Z"],
        ["2020-01-01 00:00:03 UTC", "2020-01-01 00:00:01.5 UTC", "2020-01-01 00:00:02 UTC"],
        ["2020-01-01 00:00:03+00", "2020-01-01 01:00:01.5 +0100", "2020-01-01T00:00:02.000z"],
        ["2020-01-01 00:00:00,3", "2020-01-01 00:00:00,1", "2020-01-01 00:00:00,2"],
        ["9999-12-31", "0001-01-01", "2020-01-01T00:00:00.000001"],
        ["20200103", "20200101", "20200102"],
    ],
)
def test_times_as_other_programs_write_them_are_in_order(tables: Tables, times: list[str]) -> None:
    text = "".join(f'u,{item},"{time}"\n' for item, time in zip("abc", times, strict=True))
    assert tables.read(tables.write("log.csv", f"{HEADER}\n{text}")) == {"u": "bca"}


def test_a_year_that_nanoseconds_cannot_tell_is_refused(tables: Tables) -> None:
    text = "u,a,2020-01-01T00:00:00.123456789\nu,b,9999-01-01\n"
    message = tables.refusal(tables.write("log.csv", f"{HEADER}\n{text}"))
    assert "row 2: '9999-01-01' is not a time" in message


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
    tables.prepare(tables.write("log.csv", f"{HEADER}\n{text}"))
    assert said in caplog.text

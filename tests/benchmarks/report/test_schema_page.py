"""The page of result files says what `schema.py` says."""

from benchmarks.report.schema_page import describe_schema, on_page_markdown

SOURCE = '''
class Latency(Base):
    """Milliseconds."""

    KIND: ClassVar[str]
    p50: float  # the median
    # None for fewer
    # than 200 calls
    p99: float | None = None
    name: str
'''


def test_each_field_stands_there_with_its_type_and_its_comment() -> None:
    assert describe_schema(SOURCE).splitlines() == [
        *("## Latency", "", "Milliseconds.", "", "With the fields of [Base](#base).", ""),
        *("| field | type | meaning |", "| --- | --- | --- |"),
        "| `p50` | float | the median |",
        "| `p99` | float \\| None | None for fewer than 200 calls |",
        "| `name` | str |  |",
    ]


def test_a_page_that_does_not_ask_is_left_as_it_is() -> None:
    assert on_page_markdown("# Title") == "# Title"
    page = on_page_markdown("# Title\n\nRESULT_FILES")
    assert "| `throughput_per_s` | float | users, in batches of `throughput_batch_size` |" in page

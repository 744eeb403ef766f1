"""A log in days gives what the whole log gives, and what cannot be continued is one line."""

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqrec import continuing, data, splits
from seqrec import prepare as module
from seqrec.artifact import Kind
from seqrec.data import SequenceDataset, load_dataset
from seqrec.errors import DataError
from seqrec.files import read_json, write_json
from seqrec.prepare import PrepareConfig

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.seqrec.table_folder import INTERACTIONS, ITEMS, Tables, sequences

# Of the books of ITEMS: "u1" and a new user whose id comes first take a new one; "u3" goes on.
DAY = pl.DataFrame(
    {
        "user_id": ["u1", "a", "u3", "u3", "a"],
        "item_id": ["new", "new", "t", "r", "t"],
        "timestamp": [50, 40, 60, 40, 45],
    }
)
NEW_ITEMS = pl.DataFrame(
    {"item_id": ["new", "e"], "title": ["Kidnapped", "Emma: A Novel"], "category": ["Sea", ""]}
)
WHOLE = pl.concat([NEW_ITEMS, ITEMS.filter(pl.col("item_id") != "e")])


def go_on(
    tables: Tables,
    base: Path,
    log: pl.DataFrame | Path = DAY,
    items: pl.DataFrame | Path | None = NEW_ITEMS,
    **flags: Any,
) -> SequenceDataset:
    """Continue a data set, the tables written first if they are frames."""
    if isinstance(log, pl.DataFrame):
        log = tables.write("day.parquet", log)
    if isinstance(items, pl.DataFrame):
        items = tables.write("day-items.parquet", items)
    where = {"continue_": base, "output_dir": tables.folder / "next"}
    return module.prepare(PrepareConfig(interactions=log, items=items, **{**where, **flags}))


def by_id(dataset: SequenceDataset) -> list[Any]:
    """Return all that a data set says, in an order that does not depend on its numbers."""
    taken = sequences(dataset)
    split = dict(zip(taken, dataset.split.tolist(), strict=True))
    repeats = dataset.meta["repeat_share"]
    return [sorted(taken.items()), sorted(split.items()), sorted(dataset.items.rows()), repeats]


def refusal(tables: Tables, *args: Any, **flags: Any) -> str:
    """Return the line of the `DataError`, having checked that nothing was written."""
    before = sorted(tables.folder.iterdir())
    with pytest.raises(DataError) as raised:
        go_on(tables, *args, **flags)
    assert {p.name for p in set(tables.folder.iterdir()) - set(before)} <= {
        "day.parquet",
        "day-items.parquet",
    }
    assert "\n" not in str(raised.value)
    return str(raised.value)


# --- The same as all logs at once ---------------------------------------------------------------

events = st.lists(
    st.tuples(st.sampled_from("pqrstu"), st.sampled_from("abcdef"), st.integers(0, 9)),
    min_size=1,
    max_size=14,
)
catalogues = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["x", "y"]), max_size=6)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    days=st.lists(st.tuples(events, catalogues), min_size=2, max_size=4),
    split=st.sampled_from(["leave-one-out", "temporal"]),
    in_order=st.booleans(),
    at_once=st.sampled_from([2, 5, 1000]),
)
def test_a_log_in_days_gives_what_all_days_at_once_give(
    days: list[tuple[list[tuple[str, str, int]], dict[str, str]]],
    split: Any,
    in_order: bool,
    at_once: int,
) -> None:
    """Whatever comes new, again, late or at the same time; compared by ids."""
    days[0][0].extend([("s", "a", 0)] * 3)  # a split by users needs one with three events
    whole, texts = pl.DataFrame(schema=DAY.schema), dict.fromkeys("abc", "title")
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "EVENTS_AT_ONCE", at_once)
        tables = Tables(Path(temporary))
        known: SequenceDataset | None = None
        for number, (rows, changed) in enumerate(days):
            texts |= changed | {item: texts.get(item, "late") for _, item, _ in rows}
            catalogue = pl.DataFrame({"item_id": list(texts), "title": list(texts.values())})
            later = [(user, item, time + 10 * number * in_order) for user, item, time in rows]
            day = pl.DataFrame(later, schema=DAY.schema, orient="row")
            whole = pl.concat([whole, day])
            output = tables.folder / f"day-{number}"
            if known is None:
                known = tables.prepare(day, catalogue, output_dir=output)
                continue
            flags: dict[str, Any] = {"valid_share": 0.3, "test_share": 0.3}
            flags["split"] = split if number == len(days) - 1 else "leave-one-out"
            all_at_once = outcome(tables.prepare, whole, catalogue, **flags)
            assert all_at_once == outcome(
                go_on, tables, known.path, day, catalogue, **flags, output_dir=output
            )
            if isinstance(all_at_once, str):
                return
            continued = load_dataset(output)
            assert continued.item_ids[: known.num_items] == known.item_ids
            assert list(sequences(continued))[: known.num_users] == list(sequences(known))
            known = continued


def outcome(make: Callable[..., SequenceDataset], *args: Any, **flags: Any) -> Any:
    """Return what a set says; if it is refused, the line after the name of the table."""
    try:
        return by_id(make(*args, **flags))
    except DataError as error:
        return str(error).partition(".parquet")[2]


def test_a_day_that_only_adds_users_and_items_at_the_end_gives_the_same_files(
    tables: Tables,
) -> None:
    log = pl.concat([INTERACTIONS, DAY.with_columns(pl.col("user_id").replace("a", "v"))])
    whole = tables.prepare(log, pl.concat([ITEMS, NEW_ITEMS[:1]]))
    base = tables.prepare(output_dir=tables.folder / "base")
    after = go_on(tables, base.path, log[len(INTERACTIONS) :], NEW_ITEMS[:1])
    assert after.fingerprint == whole.fingerprint
    for file in whole.path.iterdir():
        if file.name != "meta.json":  # which holds the paths
            assert (after.path / file.name).read_bytes() == file.read_bytes(), file.name


def test_numbers_stay_and_what_is_new_comes_after(tables: Tables) -> None:
    base = tables.prepare()
    after = go_on(tables, base.path)
    assert after.item_ids == [*base.item_ids, "new"]
    expected = {"u1": "t r e new", "u2": "r x t", "u3": "e r t", "a": "new t"}
    assert [(user, " ".join(taken)) for user, taken in sequences(after).items()] == list(
        expected.items()
    )
    assert after.split.tolist() == [[2, 2, 3], [1, 1, 2], [1, 1, 2], [2, -1, -1]]
    assert dict(after.items.select("item_id", "title").iter_rows())["e"] == "Emma: A Novel"


def test_items_are_the_whole_catalogue_or_what_changed_or_left_out(tables: Tables) -> None:
    base = tables.prepare()
    changes = go_on(tables, base.path, output_dir=tables.folder / "changes")
    whole = go_on(tables, base.path, items=WHOLE, output_dir=tables.folder / "whole")
    assert whole.fingerprint == changes.fingerprint
    known = DAY.filter(pl.col("item_id") != "new")
    assert go_on(tables, base.path, known, None).items.equals(base.items)


def test_three_lines_say_what_is_new_what_changed_and_what_is_not_as_expected(
    tables: Tables, caplog: pytest.LogCaptureFixture
) -> None:
    last = {"user_id": "u2", "item_id": "r", "timestamp": 40}  # right after "t" at 40
    base = tables.prepare(pl.concat([INTERACTIONS, pl.DataFrame(last)]))
    odd = [("u2", "t", 40), ("u2", "e", 35)]  # known already; older than the events at 40
    day = pl.concat([DAY, pl.DataFrame(odd, schema=DAY.schema, orient="row")])
    with caplog.at_level(logging.INFO):
        go_on(tables, base.path, day)
    changes = f"{tables.folder}/day-items.parquet"
    assert caplog.messages[1:4] == [
        "new items: 1",
        f"items with another text: 1; not in {changes}, and kept as they are: 4",
        f"{tables.folder}/day.parquet: 7 new events of 4 users, 1 of them new; older than a "
        "known one of their user, and put before it: 1; known already (user, item and time), and "
        "counted again: 1",
    ]


# --- Flags --------------------------------------------------------------------------------------


def test_the_command_takes_columns_and_split_from_the_set_unless_a_flag_says_otherwise(
    tables: Tables,
) -> None:
    names = {"user_id": "who", "item_id": "what", "timestamp": "when"}
    columns: dict[str, Any] = {"user_column": "who", "item_column": "what", "time_column": "when"}
    shares: dict[str, Any] = {"split": "temporal", "valid_share": 0.2, "test_share": 0.4}
    catalogue = pl.concat([ITEMS, NEW_ITEMS[:1]]).rename({"item_id": "asin", "title": "name"})
    columns |= {"items_id_column": "asin", "title_column": "name"}
    log, day = INTERACTIONS.rename(names), DAY.rename(names)
    base = tables.prepare(log, catalogue, **columns, **shares)
    whole = tables.prepare(
        pl.concat([log, day]), catalogue, **columns, **shares, output_dir=tables.folder / "whole"
    )
    command = ["--interactions", str(tables.write("day.csv", day)), "--continue", str(base.path)]
    command += ["--items", str(tables.folder / "items.parquet"), "--output-dir"]
    for output, flags in (("day-2", []), ("other", ["--split", "leave-one-out"])):
        module.main([*command, str(tables.folder / output), *flags])
    assert by_id(load_dataset(tables.folder / "day-2")) == by_id(whole)
    assert load_dataset(tables.folder / "other").split.tolist()[0] == [2, 2, 3]


@pytest.mark.parametrize(
    "flags",
    [
        {"interactions": None},
        {"interactions": None, "dataset": "ml-100k"},
        {"dataset": "ml-100k"},
        {"text_columns": ("category",)},
        {"output_dir": None},
    ],
)
def test_flags_that_do_not_go_with_continue_are_refused(flags: dict[str, Any]) -> None:
    given = {"interactions": Path("a"), "output_dir": Path("b"), "continue_": Path("c")}
    with pytest.raises(ValueError, match="--"):
        PrepareConfig(**{**given, **flags})


# --- Times --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "new", "complaint"),
    [
        (pl.Int64, pl.Int32, None),
        (pl.Datetime("us"), pl.String, None),  # ISO 8601 text is read as microseconds
        (pl.Int64, pl.Datetime("us"), "are microseconds, but those of .* are whole numbers"),
        (pl.Datetime("ms"), pl.Datetime("ns"), "are nanoseconds, but those of .* milliseconds"),
        (pl.Date, pl.String, "are microseconds, but those of .* are days"),
    ],
)
def test_times_go_on_in_the_kind_that_is_known_or_are_refused(
    tables: Tables, known: Any, new: Any, complaint: str | None
) -> None:
    def log(frame: pl.DataFrame, kind: Any) -> pl.DataFrame:
        if kind == pl.String:
            kind, text = pl.Datetime("us"), pl.col("timestamp").dt.to_string("iso")
        else:
            text = pl.col("timestamp")
        moments = pl.col("timestamp").cast(kind)
        if isinstance(kind, pl.Datetime):  # whole seconds
            moments = pl.from_epoch("timestamp").cast(kind)
        return frame.with_columns(moments).with_columns(text)

    base = tables.prepare(log(INTERACTIONS, known))
    if complaint is None:
        assert sequences(go_on(tables, base.path, log(DAY, new)))["u3"] == ["e", "r", "t"]
    else:
        with pytest.raises(DataError, match=f"{complaint}.*python -m seqrec.prepare"):
            go_on(tables, base.path, log(DAY, new))


def test_fractions_go_on_in_order(tables: Tables) -> None:
    def shifted(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(pl.col("timestamp") - 40.5)  # before and after zero

    base = tables.prepare(shifted(INTERACTIONS))
    assert sequences(go_on(tables, base.path, shifted(DAY)))["u3"] == ["e", "r", "t"]
    message = refusal(tables, base.path, output_dir=tables.folder / "refused")
    assert "are whole numbers, but those of" in message
    assert "are fractions" in message


# --- What is refused ----------------------------------------------------------------------------


def test_what_cannot_be_continued_is_refused_with_what_to_type(tables: Tables) -> None:
    base = tables.prepare()
    again = f"python -m seqrec.prepare --interactions FILE --items FILE --output-dir {base.path}"
    message = refusal(tables, base.path, output_dir=base.path / ".." / base.path.name)
    assert "the set that is continued" in message
    assert "Give another --output-dir" in message
    message = refusal(tables, base.path, items=NEW_ITEMS.drop("category"))
    assert f"no text in a column 'category', which {base.path} reads" in message
    message = refusal(tables, base.path, items=NEW_ITEMS[1:])
    assert f"item 'new' has no row in {tables.folder}/day-items.parquet or {base.path}" in message
    message = refusal(tables, base.path, items=None)
    assert f"item 'new' has no row in {base.path}, and --items is not given; 1 item" in message
    assert "no usable data set in" in refusal(tables, tables.folder / "nowhere")
    with (base.path / "times.npy").open("r+b") as file:
        file.truncate(100)
    message = refusal(tables, base.path)
    assert "times.npy is damaged" in message
    assert again in message


def test_a_set_of_an_earlier_version_is_read_as_before_but_keeps_no_times(tables: Tables) -> None:
    base = tables.prepare()
    meta = read_json(base.path / "meta.json")
    del meta["time_kind"], meta["sha256"]["times.npy"]
    write_json(base.path / "meta.json", meta)
    (base.path / "times.npy").unlink()
    assert load_dataset(base.path).fingerprint == base.fingerprint
    assert f"{base.path} keeps no times" in refusal(tables, base.path)
    tables.prepare()  # once more, into the same folder
    assert go_on(tables, base.path).num_users == 4


def test_a_set_with_items_held_out_cannot_be_continued_but_be_made_by_continuing(
    tables: Tables,
) -> None:
    rng = np.random.default_rng(0)
    users = [f"u{user}" for user in rng.integers(10, 30, 300)]
    taken = rng.choice(ITEMS["item_id"].to_numpy(), 300).tolist()
    log = pl.DataFrame({"user_id": users, "item_id": taken, "timestamp": range(300)})
    base = tables.prepare(log[:250])
    assert base.num_users == len(set(users))  # and so numbers are the same
    whole = tables.prepare(log, cold_share=0.2, output_dir=tables.folder / "whole")
    cold = go_on(tables, base.path, log[250:], None, cold_share=0.2)
    assert cold.fingerprint == whole.fingerprint
    assert len(cold.cold_items) == 1
    assert not (cold.path / "times.npy").exists()
    message = refusal(tables, cold.path, output_dir=tables.folder / "refused")
    assert "was prepared with --cold-share" in message


# --- Interrupted --------------------------------------------------------------------------------


def contents(folder: Path) -> dict[Path, bytes | None]:
    """Return what is below a folder: None of a folder, the contents of a file."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(("step", "is_there"), [(step, step % 2 == 0) for step in range(9)])
def test_a_run_that_ends_at_any_step_leaves_what_was_there_and_nothing_else(
    tables: Tables, monkeypatch: pytest.MonkeyPatch, step: int, is_there: bool
) -> None:
    """Steps: two files of events beside the set; its tables, arrays and description."""
    base = tables.prepare()
    after = go_on(tables, base.path, output_dir=tables.folder / "expected")
    if is_there:
        go_on(tables, base.path, DAY[:3])
    before = contents(tables.folder)
    steps = iter(range(100))

    def ending(function: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            done = function(*args, **kwargs)
            if next(steps) == step:
                raise KeyboardInterrupt
            return done

        return run

    for owner, name in (
        (continuing, "_insert"),
        (data.np, "save"),
        (pl.DataFrame, "write_parquet"),
        (Kind, "write"),
    ):
        monkeypatch.setattr(owner, name, ending(getattr(owner, name)))
    log, items = tables.folder / "day.parquet", tables.folder / "day-items.parquet"
    with pytest.raises(KeyboardInterrupt):
        go_on(tables, base.path, log, items)
    assert contents(tables.folder) == before
    assert next(steps) == step + 1
    assert np.array_equal(load_dataset(base.path).events, base.events)
    monkeypatch.undo()
    go_on(tables, base.path, DAY, items)
    assert load_dataset(tables.folder / "next").fingerprint == after.fingerprint

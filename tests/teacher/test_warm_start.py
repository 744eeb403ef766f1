"""Teachers that start from an earlier run's: rows by id, knowledge of today, what is refused."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset, write_dataset
from seqrec.errors import SeqRecError
from seqrec.files import read_json, write_json
from seqrec.knowledge import load_knowledge
from seqrec.splits import leave_one_out

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from student.config import DistillConfig
from student.distilling import run as distill
from teacher import tuning
from teacher.config import FinetuneConfig
from teacher.extracting import answer_prefixes
from teacher.model import Teacher

SHAPE = {"num_layers": 1, "item_dim": 8, "lora_rank": 2, "max_len": 6, "num_threads": 1}


@pytest.fixture(scope="module")
def today(tiny_items: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> SequenceDataset:
    """The thirty books in another order, the first two gone, and two new ones."""
    new = pl.DataFrame(
        {"item_id": ["n1", "n2"], "title": ["Middlemarch", "Hard Times"], "category": ["", ""]}
    )
    items = pl.concat([new, tiny_items[2:].reverse()])
    return sold(items, tmp_path_factory.mktemp("data") / "today")


def sold(items: pl.DataFrame, folder: Path) -> SequenceDataset:
    """Return a log of twenty users of thirty items."""
    rng = np.random.default_rng(1)
    sequences = [rng.permutation(30)[:6] + 1 for _ in range(20)]
    return write_dataset(
        folder,
        name=folder.name,
        items=items,
        user_ids=pl.Series([f"u{user}" for user in range(20)]),
        events=np.concatenate(sequences).astype(np.int32),
        offsets=np.arange(21) * 6,
        split=leave_one_out(np.full(20, 6)),
        split_name="leave-one-out",
        provenance={},
    )


@pytest.fixture(scope="module")
def earlier(
    tiny_dataset: SequenceDataset, tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run on the thirty books: a teacher, refitted, and its knowledge."""
    run = tmp_path_factory.mktemp("earlier")
    flags: dict[str, Any] = {"num_epochs": 2, "refit_share": 0.5, "learning_rate": 0.03, **SHAPE}
    where = {"data_dir": (tiny_dataset.path,), "output_dir": run, "device": "cpu"}
    tuning.run(FinetuneConfig(model=str(tiny_llm), bits=32, **where, **flags))
    return run


@pytest.fixture
def config(today: SequenceDataset, tiny_llm: Path, earlier: Path, tmp_path: Path) -> FinetuneConfig:
    where: dict[str, Any] = {"data_dir": (today.path,), "output_dir": tmp_path / "out"}
    flags = {"bits": 32, "device": "cpu", "init_from": earlier, **SHAPE}
    return FinetuneConfig(model=str(tiny_llm), **where, **flags)


def test_a_start_that_is_tuned_no_further_answers_of_todays_items_as_the_earlier_teacher_does(
    config: FinetuneConfig, today: SequenceDataset, tiny_dataset: SequenceDataset, earlier: Path
) -> None:
    tuning.run(dataclasses.replace(config, num_epochs=0))
    assert config.output_dir is not None
    common = tiny_dataset.item_ids[2:]
    history = ["b07", "b30", "b03", "b11"]
    for part in (".", "selection"):
        answers = []
        for run, dataset in ((config.output_dir, today), (earlier, tiny_dataset)):
            teacher = Teacher.from_pretrained(run / "teacher")
            if part == "selection":
                teacher.load_weights(run / "teacher" / part)
            number = {name: i for i, name in enumerate(dataset.item_ids, start=1)}
            items = torch.tensor([[number[name] for name in history]])
            with torch.inference_mode():
                answers.append(teacher(items)[0, [number[name] for name in common]])
        torch.testing.assert_close(answers[0], answers[1], rtol=1e-4, atol=1e-5)
    # A new item is its text alone, in the components that the projection was trained with.
    teacher = Teacher.from_pretrained(config.output_dir / "teacher")
    assert (teacher.item_table.residual.weight[:3] == 0).all()
    assert (teacher.item_table.components[1:3] != 0).any(dim=1).all()
    text_map = load_file(earlier / "teacher" / "head.safetensors")["text_map"]
    assert torch.equal(teacher.text_map, text_map)
    # The knowledge is this teacher's answers, from before it knew validation events.
    teacher.load_weights(config.output_dir / "teacher" / "selection")
    knowledge = load_knowledge(config.output_dir / "knowledge", today)
    prefixes, states = next(iter(answer_prefixes(teacher, today, 1000)))
    np.testing.assert_allclose(
        knowledge.states[knowledge.rows[prefixes]], states, rtol=2e-3, atol=2e-3
    )


def test_a_book_whose_text_was_rewritten_keeps_its_row(
    config: FinetuneConfig,
    today: SequenceDataset,
    tiny_dataset: SequenceDataset,
    earlier: Path,
) -> None:
    flags = tuning.scheduled(config, today)
    teacher = tuning.build_teacher(flags, today, torch.device("cpu"))
    row = teacher.item_table.weight[3].detach().clone()  # the last of the thirty
    teacher.item_table.components[3] += 1.0
    numbers = np.array([0, 0, 0, *range(tiny_dataset.num_items, 2, -1)])
    teacher.load_weights(earlier / "teacher" / "selection", numbers)
    torch.testing.assert_close(teacher.item_table.weight[3].detach(), row, rtol=1e-4, atol=1e-4)


def test_the_same_command_is_done_and_another_teacher_to_start_from_makes_it_again(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch, earlier: Path, tmp_path: Path
) -> None:
    built = []
    build = tuning.build_teacher
    monkeypatch.setattr(tuning, "build_teacher", lambda *a: built.append(1) or build(*a))
    config = dataclasses.replace(config, num_epochs=1)
    tuning.run(config)
    tuning.run(config)
    assert built == [1]
    other = shutil.copytree(earlier, tmp_path / "other")
    shutil.copytree(other / "teacher" / "selection", other / "teacher", dirs_exist_ok=True)
    tuning.run(dataclasses.replace(config, init_from=other))
    assert built == [1, 1]


def test_a_killed_start_goes_on_to_the_same_end(
    config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import seqrec.training

    config = dataclasses.replace(config, num_epochs=2, refit_share=0.5)
    assert config.output_dir is not None
    unbroken = config.output_dir.with_name("unbroken")
    tuning.run(dataclasses.replace(config, output_dir=unbroken))
    save, saved = seqrec.training._save_checkpoint, []

    def save_and_die(*arguments: Any) -> None:
        save(*arguments)
        saved.append(arguments[1].epoch)
        if len(saved) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(seqrec.training, "_save_checkpoint", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        tuning.run(config)
    tuning.run(config)
    assert saved == [1, 2, 1]
    for part in (".", "selection"):
        head, whole = (
            load_file(run / "teacher" / part / "head.safetensors")
            for run in (config.output_dir, unbroken)
        )
        assert all(torch.equal(head[name], whole[name]) for name in whole)


def test_an_earlier_selection_does_not_stay_beside_a_teacher_without_one(
    config: FinetuneConfig,
) -> None:
    assert config.output_dir is not None
    tuning.run(dataclasses.replace(config, num_epochs=0))
    assert (config.output_dir / "teacher" / "selection").is_dir()
    tuning.run(dataclasses.replace(config, num_epochs=1, refit_share=0.0))
    assert not (config.output_dir / "teacher" / "selection").is_dir()
    assert not (config.output_dir / "knowledge" / "selection").is_dir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 2}, "has num_layers 1, this run has 2. Type --num-layers 1"),
        ({"bits": 16}, "has bits 32, this run has 16. Type --bits 32"),
        ({"item_dim": 16}, "has item_dim 8, this run has 16. Type --item-dim 8"),
        ({"lora_rank": 4}, "has lora_rank 2, this run has 4. Type --lora-rank 2"),
        ({"max_len": 7}, "has max_len 6, this run has 7. Type --max-len 6"),
        ({"init_from": Path("nowhere")}, "there is no finished teacher in it"),
    ],
)
def test_a_start_that_cannot_be_made_is_refused_before_any_work(
    config: FinetuneConfig,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr(tuning, "build_teacher", lambda *_: pytest.fail("work was done"))
    with pytest.raises(SeqRecError, match=message):
        tuning.run(dataclasses.replace(config, **change))


def test_a_teacher_of_an_earlier_format_is_no_start(config: FinetuneConfig, tmp_path: Path) -> None:
    assert config.init_from is not None
    run = tmp_path / "old"
    shutil.copytree(config.init_from, run)
    described = read_json(run / "teacher" / "teacher.json")
    del described["format"]
    write_json(run / "teacher" / "teacher.json", described)
    with pytest.raises(SeqRecError, match="it is of format 1"):
        tuning.run(dataclasses.replace(config, init_from=run))


def test_another_language_model_and_the_run_itself_are_refused(
    config: FinetuneConfig, tiny_bert: Path, earlier: Path
) -> None:
    with pytest.raises(SeqRecError, match="was tuned from the language model"):
        tuning.run(dataclasses.replace(config, model=str(tiny_bert)))
    with pytest.raises(SeqRecError, match="Give another --output-dir"):
        tuning.run(dataclasses.replace(config, output_dir=earlier))


@pytest.mark.parametrize(
    "name",
    [
        *("metrics.json", "teacher.json", "head.safetensors", "selection/head.safetensors"),
        *("adapter/adapter_config.json", "adapter/adapter_model.safetensors"),
    ],
)
def test_a_teacher_with_a_file_cut_short_is_refused_before_any_work(
    config: FinetuneConfig,
    earlier: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
) -> None:
    run = Path(shutil.copytree(earlier, tmp_path / "damaged"))
    file = run / "teacher" / name
    file.write_bytes(file.read_bytes()[:-9])
    monkeypatch.setattr(tuning, "build_teacher", lambda *_: pytest.fail("work was done"))
    with pytest.raises(SeqRecError, match=r"is damaged|no usable teacher"):
        tuning.run(dataclasses.replace(config, init_from=run))


def test_layers_that_are_not_asked_for_are_as_many_as_the_earlier_teacher_has(
    config: FinetuneConfig, today: SequenceDataset
) -> None:
    assert tuning.scheduled(dataclasses.replace(config, num_layers=None), today).num_layers == 1


def test_0_epochs_without_a_start_leave_a_teacher_that_ranks_by_texts(
    config: FinetuneConfig, today: SequenceDataset
) -> None:
    tuning.run(dataclasses.replace(config, init_from=None, num_epochs=0))
    assert config.output_dir is not None
    teacher = Teacher.from_pretrained(config.output_dir / "teacher")
    rows = teacher.item_vectors()
    state = torch.nn.functional.layer_norm(rows[2] / 4 + rows[3] / 2, rows[3].shape)
    torch.testing.assert_close(teacher.encode(torch.tensor([[2, 3]]))[0, -1], state)


def test_a_teacher_of_two_catalogues_answers_of_each_as_it_does_once_it_is_brought_there(
    today: SequenceDataset, tiny_dataset: SequenceDataset, tiny_llm: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / "books", tmp_path / "today"]
    for one, folder in zip((tiny_dataset, today), folders, strict=True):
        shutil.copytree(one.path, folder)
    both, alone = tmp_path / "both", tmp_path / "alone"
    flags: dict[str, Any] = {"model": str(tiny_llm), "bits": 32, "device": "cpu", **SHAPE}
    flags |= {"learning_rate": 0.03, "refit_share": 0.5}
    tuning.run(FinetuneConfig(data_dir=tuple(folders), output_dir=both, num_epochs=2, **flags))
    found = read_json(both / "teacher" / "metrics.json")
    by_catalogue = found["valid_ndcg@10_by_catalogue"]
    assert list(by_catalogue) == ["books", "today"]
    assert found["valid_ndcg@10"] == pytest.approx(sum(by_catalogue.values()) / 2)
    tuning.run(
        FinetuneConfig(
            data_dir=(folders[1],), output_dir=alone, init_from=both, num_epochs=0, **flags
        )
    )
    brought = read_json(alone / "teacher" / "metrics.json")
    assert brought["test"] == found["test_by_catalogue"]["today"]
    assert brought["valid_ndcg@10"] == pytest.approx(by_catalogue["today"])
    assert brought["test"] != found["test"]


def test_to_another_catalogue_the_adapter_alone_is_brought(
    config: FinetuneConfig, earlier: Path, tiny_items: pl.DataFrame, tmp_path: Path
) -> None:
    """So what is not trained ranks it as it does without a start: by the texts."""
    other = sold(tiny_items.with_columns(pl.col("item_id") + " elsewhere"), tmp_path / "other")
    config = dataclasses.replace(config, data_dir=(other.path,), num_epochs=0)
    without = dataclasses.replace(config, init_from=None, output_dir=tmp_path / "without")
    tuning.run(config)
    tuning.run(without)
    assert config.output_dir is not None
    brought, anew = (
        read_json(out / "teacher" / "metrics.json")["test"]
        for out in (config.output_dir, tmp_path / "without")
    )
    assert brought == anew
    for part in (".", "selection"):
        here, there = (
            load_file(run / "teacher" / part / "adapter" / "adapter_model.safetensors")
            for run in (config.output_dir, earlier)
        )
        assert all(torch.equal(here[name], there[name]) for name in there)


@pytest.mark.slow
def test_both_commands_start_from_yesterdays_run(
    config: FinetuneConfig,
    today: SequenceDataset,
    tiny_dataset: SequenceDataset,
    earlier: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shape: dict[str, Any] = {"hidden_dim": 8, "max_len": 6, "device": "cpu", "num_threads": 1}
    first = {"data_dir": tiny_dataset.path, "output_dir": earlier, "num_epochs": 2}
    distill(DistillConfig(**first, **shape))
    tuning.run(config)
    second = {"data_dir": today.path, "output_dir": config.output_dir, "init_from": earlier}
    distill(DistillConfig(**second, **shape))
    assert "gru distilled" in capsys.readouterr().out
    assert config.output_dir is not None
    made = read_json(config.output_dir / "students" / "gru" / "distilled" / "recipe.json")
    assert len(made["init_fingerprint"]) == 64

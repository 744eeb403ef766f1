"""A language model that is tuned to read items as their users take them."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import seqrec.training
from seqrec.batching import Batch
from seqrec.data import SequenceDataset
from seqrec.errors import DataError, ModelError
from seqrec.files import read_json
from seqrec.uniting import open_united

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from teacher.base import load_base, load_tokenizer, resolve_model
from teacher.check_folder import model_fingerprint
from teacher.config import ReaderConfig
from teacher.model import with_adapter
from teacher.reading import (
    NUM_TARGETS,
    REACH,
    PairBatches,
    contrastive_loss,
    merge,
    reader_of,
    run,
    sample_targets,
    validate,
)
from teacher.text import read_texts

Write = Callable[[list[list[int]], int], SequenceDataset]


def batch_of(*pairs: tuple[int, int]) -> Batch:
    items = torch.tensor(pairs)
    return Batch(items, items, torch.zeros_like(items))


def looked_up(vectors: list[list[float]]) -> Callable[[nn.Module, Tensor], Tensor]:
    """Return what reads item i as the vector i - 1."""
    return lambda model, items: torch.tensor(vectors)[items - 1]


def pairs_of(dataset: SequenceDataset, num_epochs: int = 1) -> set[tuple[int, int]]:
    batches = PairBatches(dataset, batch_size=8, seed=0)
    drawn = (batch for epoch in range(num_epochs) for batch in batches.epoch(epoch)[1])
    return {tuple(pair) for batch in drawn for pair in batch.items.tolist()}


# The pairs.


def test_pairs_are_training_events_of_one_user_close_after_each_other(
    write_sequences: Write,
) -> None:
    # The last two events of each are held out.
    dataset = write_sequences([[1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14], [15, 16]], 16)
    first = {(i, j) for i in range(1, 6) for j in range(i + 1, min(i + REACH, 5) + 1)}
    # Of a user with two events none is held out.
    assert pairs_of(dataset, num_epochs=3) == first | {(8, 9), (15, 16)}


def test_an_item_is_no_pair_with_itself(write_sequences: Write) -> None:
    assert pairs_of(write_sequences([[1, 1, 2, 3, 4], [3, 4, 3, 4]], 4)) == {(1, 2), (3, 4)}


def test_the_same_epoch_has_the_same_pairs_and_another_has_others(
    tiny_dataset: SequenceDataset,
) -> None:
    epochs = [
        torch.cat([batch.items for batch in PairBatches(tiny_dataset, 8, seed=0).epoch(epoch)[1]])
        for epoch in (0, 0, 1)
    ]
    assert torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0][:100], epochs[2][:100])


def test_a_batch_is_of_one_catalogue_and_each_has_its_turn(
    tiny_dataset: SequenceDataset, write_sequences: Write
) -> None:
    written = write_sequences(60 * [[1, 2, 3, 4, 5, 6]], 6)
    united = open_united([written.path, tiny_dataset.path])
    in_first = [
        set((batch.items <= 6).flatten().tolist())
        for batch in PairBatches(united, batch_size=8, seed=0).epoch(0)[1]
    ]
    assert {frozenset(found) for found in in_first} == {frozenset({True}), frozenset({False})}
    # Their training events that another one follows.
    sizes = [60 * 3, int(np.maximum(tiny_dataset.train_lengths - 1, 0).sum())]
    share = sum(found == {True} for found in in_first) / len(in_first)
    assert share == pytest.approx(sizes[0] / sum(sizes), abs=0.2)


def test_a_log_without_a_pair_is_refused(write_sequences: Write) -> None:
    dataset = write_sequences([[1, 2, 3], [2]], 3)
    with pytest.raises(DataError, match="has no user with two training events"):
        PairBatches(dataset, batch_size=8, seed=0)


# What is learned, and what is looked at.


def test_the_loss_is_that_of_telling_a_pair_from_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("teacher.reading.TEMPERATURE", 0.5)
    # Their mean is zero. Of length 1, a pair's two have the product 0, those of two pairs -1.
    read = looked_up([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, -2.0]])
    loss = contrastive_loss(nn.Identity(), batch_of((1, 2), (4, 3)), read)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1 / 0.5)))
    # Here each first is nearer to the other's second, 0, than to its own, -1.
    loss = contrastive_loss(nn.Identity(), batch_of((1, 3), (4, 2)), read)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(1 / 0.5)))


def test_another_pair_with_the_same_second_item_is_no_negative() -> None:
    read = looked_up([[1.0, 0.0], [0.6, 0.8], [-1.6, -0.8]])
    loss = contrastive_loss(nn.Identity(), batch_of((1, 3), (2, 3)), read)
    assert loss.item() == 0


def test_targets_are_ranked_by_their_likeness_to_the_item_before(write_sequences: Write) -> None:
    # Users' last but one events, 2, 4 and 6, are the validation targets, after 1, 3 and 5.
    dataset = write_sequences([[1, 2, 7], [3, 4, 7], [5, 6, 7]], 7)
    samples = sample_targets(dataset, seed=0)
    ((before, targets),) = samples
    assert sorted(zip(before.tolist(), targets.tolist(), strict=True)) == [(1, 2), (3, 4), (5, 6)]
    near = [[9.0, 1.0], [9.0, 2.0], [-9.0, 1.0], [-9.0, 2.0], [0.0, -9.0], [0.0, -8.0]]
    assert validate(nn.Identity(), samples, looked_up(near)) == pytest.approx(1.0)
    # Items 2 and 4 change places: the targets after 1 and 3 are last of three, or second.
    near[1], near[3] = near[3], near[1]
    ranks = validate(nn.Identity(), samples, looked_up(near))
    assert ranks == pytest.approx((1 + 2 * 1 / math.log2(4)) / 3)


def test_a_sample_of_each_catalogue_is_looked_at(
    tiny_dataset: SequenceDataset, write_sequences: Write
) -> None:
    long = write_sequences([[1 + u % 9, 10 + u % 7, 17] for u in range(NUM_TARGETS + 20)], 17)
    united = open_united([long.path, tiny_dataset.path])
    first, second = sample_targets(united, seed=0)
    assert len(first[0]) == NUM_TARGETS
    assert len(second[0]) == len(tiny_dataset.eval_targets("valid").users)
    assert (first[1] <= 17).all()
    assert (second[1] > 17).all()


# The whole command.


@pytest.fixture(scope="module")
def tuned(
    tiny_dataset: SequenceDataset, tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory
) -> ReaderConfig:
    config = ReaderConfig(
        data_dir=(tiny_dataset.path,),
        output_dir=tmp_path_factory.mktemp("reader") / "reader",
        model=str(tiny_llm),
        num_steps=100,
        batch_size=16,
        num_threads=1,
        device="cpu",
    )
    run(config)
    return config


def test_the_tuned_language_model_reads_better_and_says_so(
    tuned: ReaderConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tuned.output_dir is not None
    metrics = read_json(tuned.output_dir / "metrics.json")
    assert metrics["valid_ndcg@10"] > metrics["valid_ndcg@10_untuned"]
    run(tuned)  # finished: nothing is done but to say so
    shown = capsys.readouterr().out
    assert f"{metrics['valid_ndcg@10']:.4f}" in shown
    assert f"teacher/finetune.py --model {tuned.output_dir}" in shown


def test_it_is_a_language_model_like_any_other(tuned: ReaderConfig, tiny_llm: Path) -> None:
    folder = resolve_model(str(tuned.output_dir))
    assert model_fingerprint(folder) != model_fingerprint(tiny_llm)
    model = load_base(folder, bits=4)
    assert model.config.num_hidden_layers == 2  # as many as a teacher has
    texts = ["Dune. Science Fiction", "a text that nobody has read"]
    before, after = (read_texts(texts, f, bits=32, num_layers=2) for f in (tiny_llm, folder))
    assert np.abs(before - after).max() > 1e-2


def test_the_weights_answer_as_the_model_did_with_its_adapter(
    tiny_dataset: SequenceDataset, tiny_llm: Path
) -> None:
    config = ReaderConfig(model=str(tiny_llm))
    base = load_base(tiny_llm, bits=16, num_layers=2, causal=False)
    torch.manual_seed(0)
    adapted = with_adapter(base, "a Llama", config.lora_rank, config.lora_alpha)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    read = reader_of(tiny_dataset, load_tokenizer(tiny_llm), max_tokens=8)
    items = torch.arange(1, 31)
    with torch.inference_mode():
        expected = read(adapted, items)
        with adapted.disable_adapter():
            untuned = read(adapted, items)
        found = read(
            merge(adapted, load_base(tiny_llm, bits=16, num_layers=2, causal=False), config), items
        )
    far = (expected - untuned).norm()
    assert (found - expected).norm() < 0.1 * far  # bf16 rounds


def test_a_killed_tuning_goes_on_to_the_same_end(
    tuned: ReaderConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    config = dataclasses.replace(tuned, output_dir=tmp_path / "reader")
    save = seqrec.training._save_checkpoint

    def save_and_die(*arguments: object) -> None:
        save(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(seqrec.training, "_save_checkpoint", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    assert not (tmp_path / "reader").exists()
    run(config)
    assert tuned.output_dir is not None
    names = ("model.safetensors", "metrics.json")
    for name in names:
        assert (tmp_path / "reader" / name).read_bytes() == (tuned.output_dir / name).read_bytes()
    assert not (tmp_path / "reader-checkpoint").exists()


def test_nothing_but_an_earlier_reader_is_replaced(tuned: ReaderConfig, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("the only copy")
    with pytest.raises(DataError, match="exists and holds no tuned language model"):
        run(dataclasses.replace(tuned, output_dir=tmp_path))
    with pytest.raises(ModelError, match="is what is to be tuned: give another --output-dir"):
        run(dataclasses.replace(tuned, model=str(tuned.output_dir)))


def test_weights_that_an_adapter_cannot_be_added_to_are_refused_at_once(
    tiny_dataset: SequenceDataset, tiny_llm: Path, tmp_path: Path
) -> None:
    load_base(tiny_llm, bits=4, num_layers=2, causal=False).save_pretrained(tmp_path / "nf4")
    load_tokenizer(tiny_llm).save_pretrained(tmp_path / "nf4")
    with pytest.raises(ModelError, match="stored in 4 bit"):
        run(ReaderConfig(data_dir=(tiny_dataset.path,), model=str(tmp_path / "nf4"), device="cpu"))


def test_flags_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="--batch-size 1 is below 2"):
        ReaderConfig(batch_size=1)
    with pytest.raises(ValueError, match="--num-steps 0 is below 1"):
        ReaderConfig(num_steps=0)

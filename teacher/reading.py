"""A language model that reads items as their users take them: `teacher.tune_reader`.

A teacher reads texts as the language model does that it is made of. Here that is tuned first, with
LoRA: texts of items that a user took soon after each other shall be read alike, and those of other
users' items not. For pairs (a_i, b_i) of a batch, with e the mean of a text's last states, less the
mean over the batch, of length 1,

    loss = -mean_i log( exp(e(a_i) . e(b_i) / tau) / sum_j exp(e(a_i) . e(b_j) / tau) )

(InfoNCE, arXiv:1807.03748, with the other pairs as negatives; j where b_j is b_i, but j is not i,
are left out). What is learned is about words and not about items, so it can be tried on other
catalogues, as BLaIR (arXiv:2403.03952) does with reviews; docs/day-two.md says how little it gave.
The adapter is added to the weights, so the result is a language model like any other, for
`--model`.

All pairs of a batch are of one catalogue: those of others would be told apart too easily.
Shape letters: B pairs, D width of the language model, N sampled targets.
"""

import dataclasses
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from seqrec.batching import Batch
from seqrec.config import default_output_dir, recipe
from seqrec.data import IntArray, SequenceDataset
from seqrec.errors import DataError, ModelError
from seqrec.evaluation import target_ranks
from seqrec.files import read_json, require_replaceable, says, write_json
from seqrec.histories import PAD
from seqrec.metrics import ndcg
from seqrec.processes import start_accelerator
from seqrec.schedule import choose_budget, teacher_layers
from seqrec.stage import Stage
from seqrec.texts import item_texts
from seqrec.tracking import LOGS, tracked
from seqrec.training import FitConfig, fit, set_up_cpu
from seqrec.uniting import open_united, united_path

import numpy as np
import torch
from accelerate import Accelerator
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from tabulate import tabulate
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from teacher.base import load_base, load_tokenizer, resolve_model
from teacher.check_folder import model_fingerprint, read_config
from teacher.config import ReaderConfig
from teacher.model import with_adapter
from teacher.text import mean_of_states, text_limit, tokenize

logger = logging.getLogger(__name__)

TEMPERATURE = 0.05
REACH = 3  # items of a pair are at most so many events apart
STEPS_PER_EPOCH = 50  # after which a checkpoint is written
MAX_TOKENS = 32  # of a text in training; half of what is read later, at half the cost
NUM_TARGETS = 1000  # of each catalogue's validation targets
TEXTS_AT_ONCE = 64
FORMAT = "llm-seqrec reader 1"  # of the folder, in `metrics.json`
Read = Callable[[Any, Tensor], Tensor]  # a language model and items, int64 (N,), to float (N, D)


@dataclass(frozen=True)
class PairBatches:
    """Pairs of items that a user took in training, at most `REACH` events apart, drawn at random.

    A `Batch` holds them as (B, 2), the earlier item first.
    """

    dataset: SequenceDataset
    batch_size: int
    seed: int

    @cached_property
    def _firsts(self) -> tuple[IntArray, IntArray]:
        """Return the events that another training event of the user follows, and how many do."""
        lengths = np.maximum(self.dataset.train_lengths - 1, 0)
        starts = np.repeat(self.dataset.offsets[:-1] - (np.cumsum(lengths) - lengths), lengths)
        events = starts + np.arange(len(starts))
        ends = np.repeat(self.dataset.offsets[:-1] + self.dataset.train_lengths, lengths)
        return events, ends - events - 1

    @cached_property
    def _by_catalogue(self) -> list[IntArray]:
        """Return the numbers of `_firsts` that each catalogue has."""
        catalogue = self.dataset.catalogue_of(self.dataset.events[self._firsts[0]].astype(np.int64))
        return [np.flatnonzero(catalogue == k) for k in range(len(self.dataset.catalogues))]

    def epoch(self, epoch: int) -> tuple[int, Iterator[Batch]]:
        """Return how many batches an epoch has, and the batches."""
        rng = np.random.default_rng([self.seed, epoch])
        return STEPS_PER_EPOCH, (self._draw(rng) for _ in range(STEPS_PER_EPOCH))

    def steps_per_epoch(self) -> int:
        """Return how many batches an epoch has."""
        return STEPS_PER_EPOCH

    def _draw(self, rng: np.random.Generator) -> Batch:
        events, following = self._firsts
        # A catalogue has its turn in proportion to its events.
        sizes = np.array([len(numbers) for numbers in self._by_catalogue])
        numbers = self._by_catalogue[rng.choice(len(sizes), p=sizes / sizes.sum())]
        chosen = rng.choice(numbers, self.batch_size)
        gaps = rng.integers(1, np.minimum(following[chosen], REACH) + 1)
        places = np.stack([events[chosen], events[chosen] + gaps], axis=1)
        pairs = torch.from_numpy(self.dataset.events[places].astype(np.int64))
        differ = pairs[:, 0] != pairs[:, 1]  # an item is read as itself without any training
        pairs = pairs[differ] if differ.any() else pairs
        return Batch(pairs, pairs, torch.zeros_like(pairs))

    def __post_init__(self) -> None:
        """Refuse a log without a pair."""
        if not len(self._firsts[0]):
            raise DataError(
                f"{self.dataset.path} has no user with two training events, so no pair of items to "
                "learn from. Give a longer log"
            )


def alike(vectors: Tensor) -> Tensor:
    """Return vectors (N, D) less their mean, of length 1: texts of all kinds share a direction."""
    return nn.functional.normalize(vectors - vectors.mean(dim=0).detach(), dim=1)


def contrastive_loss(model: nn.Module, batch: Batch, read: Read) -> Tensor:
    """Return the loss of pairs, as above; each item's text is read once."""
    items, places = batch.items.unique(return_inverse=True)
    first, second = alike(read(model, items))[places].unbind(1)
    likeness = first @ second.T / TEMPERATURE
    positives = batch.items[:, 1]
    same = (positives[:, None] == positives).fill_diagonal_(False)
    labels = torch.arange(len(first), device=first.device)
    return nn.functional.cross_entropy(likeness.masked_fill(same, -torch.inf), labels)


def sample_targets(dataset: SequenceDataset, seed: int) -> list[tuple[IntArray, IntArray]]:
    """Return validation targets (N,) of each catalogue, after the items (N,) just before them."""
    targets = dataset.eval_targets("valid")
    before = dataset.events[dataset.offsets[targets.users] + targets.positions - 1]
    catalogue, rng = dataset.catalogue_of(targets.items), np.random.default_rng(seed)
    samples = []
    for k in range(len(dataset.catalogues)):
        asked = np.flatnonzero(
            (catalogue == k) & (targets.positions > 0) & (before != targets.items)
        )
        chosen = rng.permutation(asked)[:NUM_TARGETS]
        samples.append((before[chosen].astype(np.int64), targets.items[chosen]))
    return [sample for sample in samples if len(sample[0])]


@torch.inference_mode()
def validate(model: nn.Module, samples: Sequence[tuple[IntArray, IntArray]], read: Read) -> float:
    """Return NDCG@10 of targets by their texts' likeness to those of the items before them.

    A target is ranked among the other users' ones of its catalogue; the mean over catalogues.
    """
    values = []
    for before, targets in samples:
        items, places = np.unique(np.stack([before, targets]), return_inverse=True)
        parts = torch.from_numpy(items).split(TEXTS_AT_ONCE)
        vectors = alike(torch.cat([read(model, part).cpu() for part in parts]))
        queries, own = torch.from_numpy(places.reshape(2, -1))
        ranked = own.unique()
        scores = nn.functional.pad(vectors[queries] @ vectors[ranked].T, (1, 0))  # column PAD
        found = torch.searchsorted(ranked, queries).clamp(max=len(ranked) - 1)
        seen = torch.where(ranked[found] == queries, found + 1, PAD)
        ranks = target_ranks(scores, 1 + torch.searchsorted(ranked, own), seen[:, None])
        values.append(ndcg(ranks.numpy(), 10).mean())
    return float(np.mean(values)) if values else 0.0


def run(config: ReaderConfig) -> None:
    """Tune a language model on the texts of one catalogue or several, and write it.

    Raises:
        SeqRecError: what the user can repair: no data, no language model, no 4 bit, divergence.
    """
    folder = config.output_dir or default_output_dir(united_path(config.data_dir)) / "reader"
    accelerator = start_accelerator(config.device, config.log_with, folder.parent / LOGS)
    set_up_cpu(config.num_threads, accelerator.num_processes)
    with accelerator.main_process_first():  # the others find what it has made
        dataset = open_united(config.data_dir)
        base_folder = resolve_model(config.model)
    if folder.resolve() == base_folder.resolve():
        raise ModelError(f"{folder} is what is to be tuned: give another --output-dir")
    ours = says(folder / "metrics.json", "format", FORMAT)
    require_replaceable(folder, "tuned language model", ours=ours)
    read_config(base_folder, bits=16)  # in which the adapter is added to it in the end
    if config.num_layers is None:
        num_layers = teacher_layers(choose_budget(config.device))
        config = dataclasses.replace(config, num_layers=num_layers)
    wanted = recipe(
        config,
        dataset_fingerprint=dataset.fingerprint,
        model_fingerprint=model_fingerprint(base_folder),
    )
    del wanted["model"]
    stage = Stage(folder, wanted, record="metrics.json", key="recipe")
    finished = stage.is_finished()
    accelerator.wait_for_everyone()  # until all have looked
    if finished:
        logger.info("the reader in %s is finished; remove the folder to tune it again", folder)
    else:
        tune(config, dataset, base_folder, stage, accelerator)
    if accelerator.is_main_process:
        sys.stdout.write(summary(folder))
    accelerator.end_training()


def tune(
    config: ReaderConfig,
    dataset: SequenceDataset,
    base_folder: Path,
    stage: Stage,
    accelerator: Accelerator,
) -> None:
    """Tune the language model in `base_folder`, its number of layers filled in, and write it."""
    batches = PairBatches(dataset, config.batch_size, config.seed)
    load = partial(load_base, base_folder, num_layers=config.num_layers or None, causal=False)
    tokenizer = load_tokenizer(base_folder)
    base = load(bits=config.bits, device=accelerator.device)
    torch.manual_seed(config.seed)
    model = with_adapter(base, config.model, config.lora_rank, config.lora_alpha)
    read = reader_of(dataset, tokenizer, min(text_limit(base), MAX_TOKENS))
    samples = sample_targets(dataset, config.seed)
    untuned = validate(model, samples, read)
    checkpoint_dir = stage.folder.with_name(f"{stage.folder.name}-checkpoint")
    with tracked(accelerator, "reader", stage.recipe):
        fit(
            model,
            lambda model, batch: contrastive_loss(model, batch, read),
            batches,
            None,  # a sample of targets tells the end from the beginning, and not much more
            FitConfig(
                num_epochs=-(-config.num_steps // STEPS_PER_EPOCH),
                learning_rate=config.learning_rate,
                seed=config.seed,
            ),
            accelerator=accelerator,
            checkpoint_dir=checkpoint_dir,
            recipe=stage.recipe,
            label="reader",
        )
    if accelerator.is_main_process:
        tuned = validate(model, samples, read)
        merged = merge(model, load(bits=16), config)
        metrics = {
            "format": FORMAT,
            "valid_ndcg@10_untuned": untuned,
            "valid_ndcg@10": tuned,
            "recipe": stage.recipe,
        }
        with stage.replacing() as unfinished:
            merged.save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
            write_json(unfinished / "metrics.json", metrics)
        shutil.rmtree(checkpoint_dir, ignore_errors=True)
    accelerator.wait_for_everyone()


def reader_of(
    dataset: SequenceDataset, tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> Read:
    """Return what reads the texts of items of a data set with a model."""
    texts = item_texts(dataset.items)

    def read(model: PreTrainedModel, items: Tensor) -> Tensor:
        chosen = [texts[item - 1] for item in items.tolist()]
        return mean_of_states(model, *tokenize(model, tokenizer, chosen, max_tokens))

    return read


def merge(model: PeftModel, base: PreTrainedModel, config: ReaderConfig) -> PreTrainedModel:
    """Add an adapter to the weights of its language model, which `base` holds in bf16.

    In 4 bit they would be quantized twice, and badly.
    """
    adapted = with_adapter(base, config.model, config.lora_rank, config.lora_alpha)
    set_peft_model_state_dict(adapted, get_peft_model_state_dict(model))
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged


def summary(folder: Path) -> str:
    """Return what the tuning was worth, and what to type next."""
    metrics = read_json(folder / "metrics.json")
    before, after = metrics["valid_ndcg@10_untuned"], metrics["valid_ndcg@10"]
    rows = [["untuned", before], ["tuned", after]]
    headers = ["language model", f"NDCG@10 by text, among {NUM_TARGETS} validation targets"]
    advice = f"Read with it: accelerate launch teacher/finetune.py --model {folder}"
    if after <= before:
        advice = "It reads no better than before: leave it. A longer log may help."
    return f"{tabulate(rows, headers, floatfmt='.4f')}\n{advice}\n"

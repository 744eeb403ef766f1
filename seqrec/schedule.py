"""How long to train, in what batches: rules that fit a schedule to the size of a data set.

The figures below are of students and teachers that started at random, as none does today.

One recipe serves small and large logs. A rule looks at the training events, how many targets there
are, P, and into how many windows W they are cut; and at the budget: `quick` on a CPU, `best` on a
GPU. Flags that are given go before the rules, which docs/how-it-works.md has as a table.

Small sets need small batches, or an epoch has too few steps to move the item tables; large ones
need few epochs. The learning rate falls to zero within them, so that 12 epochs and 8 of the
refit leave a distilled GRU as good as 24 and 8: Office without each user's last event has NDCG@10
on it of .0903 and .0912. A Transformer loses by haste where there is little text to start from:
MovieLens-100K .1318 and .1375, over two seeds, its auxiliary teacher on the same schedule. A plain
table, as controls have it, starts from nothing, and shall lose to texts, not to haste. So in the
quick budget fused GRUs alone have the short schedule.

A teacher costs far more per epoch than a student. So a quick one sees each item as a target 140
times at most, which on MovieLens-100K is two epochs.

A row of twice the width holds more, if there are events enough to learn it from: Beauty, of 13 per
item, validates at .061 with 64 and .058 with 128, MovieLens-1M, of 290, at .168 and .182
(Transformers without a teacher).

A softmax over a sample costs accuracy, more where there is more to learn of each item: with 1,024
of MovieLens-1M's 3,416 items a GRU validates 2.2 % and a Transformer 7.2 % lower than with all,
without a teacher, and a step over all takes 1.4 to 1.8 times the processor's time. So all items are
taken where that is affordable, and of larger catalogues more of them where the set is dense. In a
sparse one an item is a target a few times per epoch, and 1,024 negatives for each step show it far
more often as what was not taken.

In a large catalogue, of more than 50,000 items, the table's gradient is sparse: a step costs what
its own items cost, and leaves other rows as they are (`seqrec.training.RowwiseAdamW`). There the
teacher's softmax is sampled too, with 4,096 negatives.

Once all is chosen, training goes on with the validation events too, if they are 0.75 % or more of
the training events: fewer say too little that is new.

What starts from an earlier run has 2 epochs, and 2 of the refit. Students of all but the newest
tenth of MovieLens-100K, without each user's last event, rank that event at NDCG@10 .1342 and .1263
as they are (GRU and Transformer, no soft targets). Trained on, they do so at .1233 and .1249 after
one epoch, worse than before, at .1324 and .1315 after two, and at .1343 and .1318 after three;
trained anew on all of it at .1324 and .1312. Half the learning rate gives less. Such a teacher is
not tuned at all: as it is it validates at .118 on the whole log, one that was tuned anew at .100.
Nor are auxiliary teachers trained: together they validate at .1370, and at .1351 after two epochs.
"""

import logging
from dataclasses import dataclass

from seqrec.batching import cut_windows
from seqrec.config import Budget
from seqrec.data import SequenceDataset

import numpy as np
import torch

logger = logging.getLogger(__name__)

MAX_FULL_SOFTMAX = 4096
LARGE_CATALOGUE = 50_000
NUM_NEGATIVES, NUM_DENSE_NEGATIVES, NUM_TEACHER_NEGATIVES = 1024, 4096, 4096
DENSE = 100  # targets per item
MIN_NEW_SHARE = 0.0075
WARM_TEACHER_EPOCHS = 0
WARM_EPOCHS, WARM_REFIT_SHARE = 2, 1.0


@dataclass(frozen=True)
class Schedule:
    """A schedule of training."""

    num_epochs: int
    batch_size: int  # windows


def fit_schedule(
    dataset: SequenceDataset,
    *,
    max_len: int,
    stride: int | None = None,
    steps: int,
    batches: tuple[int, int],
    targets: int,
    epochs: tuple[int, int],
    per_item: int | None = None,
) -> Schedule:
    """Fit batch size and epochs to a data set.

    Args:
        dataset: its training events are counted.
        max_len: inputs per window.
        stride: as in `cut_windows`.
        steps: an epoch's batches, if the bounds allow it.
        batches: the least and the greatest batch size, powers of two.
        targets: targets to learn in all, if the bounds allow it.
        epochs: the fewest and the most epochs.
        per_item: targets to learn of each item: no more epochs than that takes; None: no matter.
    """
    num_windows = len(cut_windows(dataset, max_len, stride))
    wanted = max(num_windows // steps, 1)
    batch_size = min(max(1 << (wanted.bit_length() - 1), batches[0]), batches[1])
    per_epoch = max(num_targets(dataset), 1)
    if per_item is not None:
        targets = min(targets, per_item * dataset.num_items)
    num_epochs = min(max(round(targets / per_epoch), epochs[0]), epochs[1])
    return Schedule(num_epochs=num_epochs, batch_size=batch_size)


def choose_budget(device: str) -> Budget:
    """Return the budget of a training on a device, `auto`, `cpu` or `cuda`: on a GPU the best."""
    return "best" if device != "cpu" and torch.cuda.is_available() else "quick"


def teacher_layers(budget: Budget) -> int:
    """Return how many of the language model's layers are kept."""
    return {"quick": 2, "best": 4}[budget]


def teacher_schedule(dataset: SequenceDataset, max_len: int, budget: Budget = "quick") -> Schedule:
    """Return the teacher's schedule; its windows do not overlap."""
    return fit_schedule(
        dataset,
        max_len=max_len,
        stride=max_len,
        steps=150,
        batches=(16, 64),
        targets=600_000,
        epochs=(1, 8),
        per_item={"quick": 140, "best": None}[budget],
    )


def student_schedule(dataset: SequenceDataset, max_len: int, *, is_short: bool) -> Schedule:
    """Return the schedule of a student, short or long."""
    return fit_schedule(
        dataset,
        max_len=max_len,
        steps=100,
        batches=(32, 128),
        targets=1_500_000 if is_short else 3_000_000,
        epochs=(8, 12) if is_short else (12, 24),
    )


def student_refit_share(*, is_short: bool) -> float:
    """Return how long a student's refit is, as a share of the epochs before: 8 epochs or so."""
    return 0.67 if is_short else 0.35


def num_targets(dataset: SequenceDataset) -> int:
    """Return how many training events follow another one: P."""
    return int(np.maximum(dataset.train_lengths - 1, 0).sum())


def warn_of_short_log(dataset: SequenceDataset, num_epochs: int | None) -> None:
    """Say so where what is not trained may rank better: at fewer targets than items.

    Office with the log of 49 users, .2 targets per item, is ranked at NDCG@10 .0270 by a GRU and at
    .0361 by a teacher, trained on it, untrained at .0347 and .0394; with 490 users, 1.7 per item,
    at .0521 by the GRU and still at .0359 by the teacher.
    """
    if num_epochs is None and (found := num_targets(dataset)) < dataset.num_items:
        logger.warning(
            "%s has %s training targets for %s items: with so few, the texts alone may rank "
            "better. Compare --num-epochs 0, which trains nothing",
            *(dataset.path, f"{found:,}", f"{dataset.num_items:,}"),
        )


def is_dense(dataset: SequenceDataset) -> bool:
    """Tell whether there are events enough for wide rows."""
    return num_targets(dataset) >= DENSE * dataset.num_items


def student_width(dataset: SequenceDataset) -> int:
    """Return the width of a student and of its item table."""
    return 128 if is_dense(dataset) else 64


def refit_epochs(dataset: SequenceDataset, share: float, num_epochs: int) -> int:
    """Return how long to train on once all is chosen, `share` of the epochs before, rounded."""
    known = dataset.train_lengths.sum()
    new = dataset.before_test().train_lengths.sum() - known
    return round(share * num_epochs) if new >= MIN_NEW_SHARE * known else 0


def student_learning_rate(batch_size: int) -> float:
    """Return the peak learning rate for batches of a size: it grows as the noise falls."""
    return float(4e-3 * (batch_size / 128) ** 0.5)


def is_large(num_items: int) -> bool:
    """Tell whether nothing that is done again and again may take time for each item."""
    return num_items > LARGE_CATALOGUE


def num_negatives(dataset: SequenceDataset) -> int:
    """Return how many items stand for all in a student's softmax; 0: all do."""
    if dataset.num_items <= MAX_FULL_SOFTMAX:
        return 0
    return NUM_DENSE_NEGATIVES if is_dense(dataset) else NUM_NEGATIVES

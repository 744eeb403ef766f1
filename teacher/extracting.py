"""A tuned teacher's answers to all training prefixes, written as knowledge for the student.

Several processes share out the prefixes, and process 0 writes what all answer. `teacher.extract` is
the command.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from seqrec.batching import cut_windows, make_batch, prefix_offsets
from seqrec.config import default_output_dir
from seqrec.data import IntArray, SequenceDataset, load_dataset
from seqrec.errors import ModelError
from seqrec.files import SELECTION, atomic_directory
from seqrec.knowledge import knowledge_bytes, save_knowledge
from seqrec.processes import gathered, start_accelerator
from seqrec.texts import MAX_TOKENS
from seqrec.training import set_up_cpu

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from tqdm import tqdm

from teacher.config import ExtractConfig
from teacher.model import Teacher

logger = logging.getLogger(__name__)


@torch.inference_mode()
def answers(
    teacher: Teacher,
    dataset: SequenceDataset,
    batch_size: int,
    process_index: int = 0,
    num_processes: int = 1,
) -> Iterator[tuple[IntArray, NDArray[np.float32]]]:
    """Yield (prefix numbers (N,), the teacher's states after them (N, V)).

    Every training prefix is answered once, from at least half of the teacher's `max_len` items; of
    several processes, by one of them.
    """
    offsets = prefix_offsets(dataset)
    windows = cut_windows(dataset, teacher.config.max_len, whole=True)
    order = np.argsort(windows.ends - windows.starts, kind="stable")
    steps = range(process_index * batch_size, len(order), batch_size * num_processes)
    silent = process_index > 0
    for start in tqdm(steps, "teacher answers", unit="batch", mininterval=1, disable=silent):
        chosen = order[start : start + batch_size]
        batch = make_batch(dataset, offsets, windows, chosen).to(teacher.device)
        asked = batch.prefixes >= 0
        states = teacher.encode(batch.items)[asked]
        yield batch.prefixes[asked].cpu().numpy(), states.float().cpu().numpy()


def extract_knowledge(
    teacher: Teacher,
    folder: Path,
    dataset: SequenceDataset,
    path: Path,
    *,
    prefixes_per_user: int,
    batch_size: int = 32,
    accelerator: Accelerator | None = None,
) -> None:
    """Write the knowledge directory of a finished teacher at `path`.

    With several processes all have to call this, each with its `accelerator`.

    A refitted teacher answers twice: as it is, all prefixes before the test; as it was, with the
    weights in `folder`, those of `dataset`. The latter goes into `selection/` inside.

    Raises:
        ModelError: the teacher was trained on other data: it may have seen what is a target here.
    """
    if teacher.config.dataset_fingerprint != dataset.fingerprint:
        raise ModelError(
            f"the teacher was trained on data set {teacher.config.dataset_fingerprint[:12]}, but "
            f"{dataset.path} is {dataset.fingerprint[:12]}. Train it again: accelerate launch "
            f"teacher/finetune.py --data-dir {dataset.path}"
        )
    refitted = (folder / SELECTION).is_dir()

    def write(known: SequenceDataset, target: Path | None) -> None:
        source: Iterator[tuple[IntArray, NDArray[np.floating]]]
        rank, count = 0, 1
        if accelerator is not None:
            rank, count = accelerator.process_index, accelerator.num_processes
        source = gathered(accelerator, answers(teacher.eval(), known, batch_size, rank, count))
        if target is not None:
            _save(teacher, known, target, source, prefixes_per_user)
        else:  # process 0 writes, the others answer
            for _ in source:
                pass
        if accelerator is not None:
            accelerator.wait_for_everyone()

    with contextlib.ExitStack() as stack:
        beside = None
        if accelerator is None or accelerator.is_main_process:
            beside = stack.enter_context(atomic_directory(path))
        write(dataset.before_test() if refitted else dataset, beside)
        if refitted:
            teacher.load_weights(folder / SELECTION)
            write(dataset, beside and beside / SELECTION)
            teacher.load_weights(folder)
    if accelerator is not None:
        accelerator.wait_for_everyone()


def _save(
    teacher: Teacher,
    dataset: SequenceDataset,
    path: Path,
    source: Iterator[tuple[IntArray, NDArray[np.floating]]],
    prefixes_per_user: int,
) -> None:
    gib = knowledge_bytes(dataset, teacher.config.item_dim, prefixes_per_user) / 2**30
    logger.info("teacher knowledge: %.2f GiB", gib)
    with torch.inference_mode():
        item_vectors = teacher.item_vectors().float().cpu().numpy()
    save_knowledge(
        path,
        dataset,
        source,
        item_vectors,
        text_components=teacher.item_table.components.float().cpu().numpy(),
        text_map=teacher.text_map.float().cpu().numpy(),
        prefixes_per_user=prefixes_per_user,
        teacher={  # all that it takes to read another text in the same way
            "model": teacher.config.model,
            "model_fingerprint": teacher.config.model_fingerprint,
            "bits": teacher.config.bits,
            "num_layers": teacher.config.num_layers,
            "max_tokens": MAX_TOKENS,
            "text_columns": dataset.meta["text_columns"],
        },
    )


def run(config: ExtractConfig) -> None:
    """Rewrite the knowledge of a finished teacher."""
    accelerator = start_accelerator(config.device)
    set_up_cpu(config.num_threads, accelerator.num_processes)
    dataset = load_dataset(config.data_dir)
    output_dir = config.output_dir or default_output_dir(config.data_dir)
    teacher = Teacher.from_pretrained(output_dir / "teacher", device=accelerator.device)
    extract_knowledge(
        teacher,
        output_dir / "teacher",
        dataset,
        output_dir / "knowledge",
        prefixes_per_user=config.prefixes_per_user,
        batch_size=config.batch_size,
        accelerator=accelerator,
    )
    accelerator.end_training()

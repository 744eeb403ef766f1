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
Answers = Iterator[tuple[IntArray, NDArray[np.floating]]]


def run(config: ExtractConfig) -> None:
    """Rewrite the knowledge of a finished teacher."""
    accelerator = start_accelerator(config.device)
    set_up_cpu(config.num_threads, accelerator.num_processes)
    dataset = load_dataset(config.data_dir)
    output_dir = config.output_dir or default_output_dir(config.data_dir)
    teacher = Teacher.from_pretrained(output_dir / "teacher", device=accelerator.device)
    extract_knowledge(
        teacher,
        dataset,
        output_dir,
        accelerator,
        prefixes_per_user=config.prefixes_per_user,
        batch_size=config.batch_size,
    )
    accelerator.end_training()


def extract_knowledge(
    teacher: Teacher,
    dataset: SequenceDataset,
    output_dir: Path,
    accelerator: Accelerator,
    *,
    prefixes_per_user: int,
    batch_size: int,
) -> None:
    """Write `knowledge/` from a finished teacher, whose folder is `teacher/`; all processes do.

    A refitted teacher answers twice: as it is, all prefixes before the test; as it was, with the
    weights in `teacher/selection/`, those of `dataset`. The latter goes into `selection/` inside.

    Raises:
        ModelError: the teacher was trained on other data: it may have seen what is a target here.
    """
    if teacher.config.dataset_fingerprint != dataset.fingerprint:
        raise ModelError(
            f"the teacher was trained on data set {teacher.config.dataset_fingerprint[:12]}, but "
            f"{dataset.path} is {dataset.fingerprint[:12]}. Train it again: accelerate launch "
            f"teacher/finetune.py --data-dir {dataset.path}"
        )
    folder, path = output_dir / "teacher", output_dir / "knowledge"
    refitted = (folder / SELECTION).is_dir()
    rank, count = accelerator.process_index, accelerator.num_processes

    def write(known: SequenceDataset, target: Path | None) -> None:
        answers = answer_prefixes(teacher.eval(), known, batch_size, rank, count)
        source = gathered(accelerator, answers)
        if target is not None:
            _save(teacher, known, target, source, prefixes_per_user)
        else:  # process 0 writes, the others answer
            for _ in source:
                pass
        accelerator.wait_for_everyone()

    with contextlib.ExitStack() as stack:
        beside = None
        if accelerator.is_main_process:
            beside = stack.enter_context(atomic_directory(path))
        write(dataset.before_test() if refitted else dataset, beside)
        if refitted:
            teacher.load_weights(folder / SELECTION)
            write(dataset, beside and beside / SELECTION)
            teacher.load_weights(folder)
    accelerator.wait_for_everyone()


@torch.inference_mode()
def answer_prefixes(
    teacher: Teacher,
    dataset: SequenceDataset,
    batch_size: int,
    process_index: int = 0,
    num_processes: int = 1,
) -> Answers:
    """Yield (prefix numbers (N,), the teacher's states after them, float32 (N, V)).

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
        is_prefix = batch.prefixes >= 0
        states = teacher.encode(batch.items)[is_prefix]
        yield batch.prefixes[is_prefix].cpu().numpy(), states.float().cpu().numpy()


def _save(
    teacher: Teacher,
    dataset: SequenceDataset,
    path: Path,
    source: Answers,
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

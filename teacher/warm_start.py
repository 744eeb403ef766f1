"""A teacher that starts from that of an earlier run: `teacher/finetune.py --init-from`.

Adapter, projections and item table are taken over, items' rows by the items' ids. New texts are
told in the components of the earlier catalogue, which the projection of the item table was trained
with; so the knowledge that is left here speaks the language of the earlier students, too.

To a catalogue that the earlier run does not know the adapter alone is brought. A table's projection
is learned beside the rows of its own items, which take what is frequent there, and ranks others
badly: the whole teacher of two Amazon sets ranked a third, untrained, at NDCG@10 .0129, where a new
table ranks it at .0394 by the texts as they are.
"""

from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.errors import ModelError
from seqrec.files import selection
from seqrec.warm_start import earlier_numbers, knows_catalogue, require_finished, require_same

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from teacher.config import FullFinetuneConfig
from teacher.model import Teacher
from teacher.saved import read_head, reading_teacher, require_format

SHAPE = ("bits", "item_dim", "max_len", "lora_rank", "lora_alpha")


def check_start(
    flags: FullFinetuneConfig, output_dir: Path, model_fingerprint: str, num_layers: int
) -> None:
    """Refuse a start that cannot be made, before any work is done.

    Args:
        flags: of the teacher, `init_from` among them.
        output_dir: of its run.
        model_fingerprint: of its language model.
        num_layers: of the language model, as many as are kept.

    Raises:
        SeqRecError: the earlier run is unfinished or damaged, or its teacher is another language
            model's or has another shape.
    """
    assert flags.init_from is not None
    folder = flags.init_from / "teacher"
    found = require_finished(flags.init_from, output_dir, folder, "metrics.json", "teacher.json")
    if (tuned := found.get("model_fingerprint")) != model_fingerprint:
        raise ModelError(
            f"{folder} was tuned from the language model {found.get('model')}, of fingerprint "
            f"{str(tuned)[:12]}; {flags.model} is {model_fingerprint[:12]}. Give "
            f"--model {found.get('model')}, as it was then, or train without --init-from"
        )
    wanted = {name: getattr(flags, name) for name in SHAPE}
    require_same(found, {**wanted, "num_layers": num_layers}, folder)
    for part in {folder, selection(folder)}:
        with reading_teacher(part):
            require_format(found)
            read_head(part, (found["num_items"] + 1, flags.item_dim))


def earlier_text_map(run: Path, dataset: SequenceDataset) -> NDArray[np.float32] | None:
    """Return what makes text components in a run that knows a catalogue, float32 (L + 1, C).

    None where it does not: the catalogue has components of its own then.
    """
    if not knows_catalogue(run, dataset):
        return None
    with safe_open(run / "teacher" / "head.safetensors", "numpy") as head:
        text_map: NDArray[np.float32] = head.get_tensor("text_map")
    return text_map


def carry_over(
    teacher: Teacher, run: Path, dataset: SequenceDataset, *, refitted: bool = False
) -> None:
    """Give a teacher the weights of an earlier run's, or its adapter if the catalogue is another.

    Args:
        teacher: of the same shape, its text components made by `earlier_text_map`.
        run: the earlier run.
        dataset: what the teacher will be asked of.
        refitted: take what the validation events of the earlier data set were trained on too; of
            a log that has grown, some may be validation events today.
    """
    folder = run / "teacher" if refitted else selection(run / "teacher")
    if knows_catalogue(run, dataset):
        teacher.load_weights(folder, earlier_numbers(run, dataset))
    else:
        teacher.load_adapter(folder)

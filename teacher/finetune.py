"""Fine-tune a language model on users' sequences and leave its knowledge for the student.

    accelerate launch teacher/finetune.py

Prepares the default data set if it is not there, loads the language model in 4 bit, reads the item
texts with it, trains LoRA and a small head with Accelerate, evaluates, and writes into the output
directory:

    teacher/     adapter/ (PEFT), head.safetensors, teacher.json, config.json, metrics.json
    knowledge/   the teacher's answers to all training prefixes (see `seqrec.knowledge`)

The validation events are held out at first, and then trained on as well, with the weights that they
chose (see `student.distill`); in both folders `selection/` is what was there before that.
"""

from seqrec.config import parse_flags
from seqrec.errors import run_main

from teacher.config import FinetuneConfig


def main() -> None:
    """Fine-tune as the command line asks."""
    config = parse_flags(
        FinetuneConfig, "Fine-tune a language model on users' sequences, with LoRA in 4 bit."
    )
    from teacher.tuning import run  # loads PyTorch and transformers

    run(config)


if __name__ == "__main__":
    run_main(main)

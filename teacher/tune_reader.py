"""Tune a language model to read items as their users take them, before it is made a teacher.

    accelerate launch -m teacher.tune_reader --data-dir data/books data/films --output-dir reader
    accelerate launch teacher/finetune.py --data-dir data/toys --model reader

The first line reads texts alone, of one catalogue or several; the second takes what it has made as
it takes any language model, for any catalogue.
"""

from seqrec.config import parse_flags
from seqrec.errors import run_main

from teacher.config import ReaderConfig


def main() -> None:
    """Tune as the command line asks."""
    config = parse_flags(ReaderConfig, "Tune a language model to read items as users take them.")
    from teacher.reading import run  # loads PyTorch and transformers

    run(config)


if __name__ == "__main__":
    run_main(main)

"""Write a finished teacher's answers to all training prefixes as knowledge for the student, again.

    accelerate launch -m teacher.extract --data-dir DIR --output-dir DIR

`teacher/finetune.py` does the same at its end.
"""

from seqrec.config import parse_flags
from seqrec.errors import run_main

from teacher.config import ExtractConfig


def main() -> None:
    """Extract as the command line asks."""
    config = parse_flags(ExtractConfig, "Write a tuned teacher's answers to all training prefixes.")
    from teacher.extracting import run  # loads PyTorch and transformers

    run(config)


if __name__ == "__main__":
    run_main(main)

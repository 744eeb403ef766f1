"""Train tiny students from the teacher's knowledge, each beside a control without a teacher.

    python -m student.distill

Writes into the output directory:

    auxiliary-teachers/<arch>-<recipe>/   a GRU and a Transformer that learn from next items alone,
                                          and answer beside the teacher (see `student.soft_targets`)
    soft-targets/<recipe>/                what all together answer to each training prefix
    students/<arch>/distilled/            the student
    students/<arch>/control/              its control: the same shape, data, epochs and seed, but no
                                          language model: a plain item table, no soft targets

`student.training` says how each is trained.
"""

from seqrec.config import parse_flags
from seqrec.errors import run_main

from student.config import DistillConfig


def main() -> None:
    """Train as the command line asks."""
    config = parse_flags(
        DistillConfig, "Distil the teacher's knowledge into a tiny GRU and Transformer."
    )
    from student.distilling import run  # loads PyTorch

    run(config)


if __name__ == "__main__":
    run_main(main)

"""A recommender to Hugging Face's model hub.

    python -m export.push_to_hub --hub-id user/model --model-dir runs/mine/export/gru-distilled-int8

sends the folder with its model card, in one commit, after its checksums were verified. Elsewhere
`Recommender.from_pretrained("user/model")` opens it. A repository that is made by it is private
until you say otherwise: it holds the ids and titles of your catalogue.

Who you are, the hub's client knows from `hf auth login` or HF_TOKEN; it comes with the extra "hub".
"""

import sys
from collections.abc import Sequence

from seqrec.config import parse_flags
from seqrec.errors import run_main

from export.config import PushConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Send the recommender that the command line names; write its address to stdout."""
    config = parse_flags(PushConfig, (__doc__ or "").partition("\n")[0], argv)
    from export.recommender import Recommender  # loads NumPy

    recommender = Recommender.from_pretrained(config.model_dir)
    sys.stdout.write(recommender.push_to_hub(config.hub_id, private=config.private) + "\n")


if __name__ == "__main__":
    run_main(main)

"""From the list of peers to runners that answer, and reasons why others do not."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from seqrec.data import SequenceDataset
from seqrec.environments import ensure_environment
from seqrec.errors import SeqRecError

from benchmarks.baselines.libraries import Peer
from benchmarks.baselines.system import PeerRunner
from benchmarks.baselines.training import ensure_trained, make_untrained

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """Why a peer has no figures."""

    system: str
    precision: str
    reason: str  # one line

    @classmethod
    def of(cls, system: str, precision: str, error: Exception) -> "Failure":
        """Make one of an error, said on one line."""
        failure = cls(system, precision, " ".join(str(error).split()))
        logger.warning("%s failed: %s", system, failure.reason)
        return failure


def open_peers(
    peers: Sequence[Peer],
    dataset: SequenceDataset,
    output_dir: Path,
    *,
    seed: int,
    num_threads: int,
    max_minutes: float,
    device: str,
    stack: ExitStack,
) -> tuple[list[PeerRunner], list[Failure]]:
    """Build environments, train and serve peers, each as far as it goes.

    Args:
        peers: in the order of the table.
        dataset: what to train on.
        output_dir: `peers` below it holds what is trained.
        seed: of the trainings.
        num_threads: of trainings and calls.
        max_minutes: of each peer's choice of epoch; 0: no limit.
        device: of the trainings, "cpu" or "cuda"; all are served on the CPU.
        stack: ends the workers when it is left.

    Returns:
        A runner for each mode that answers, and a failure for each that does not.
    """

    def make(peer: Peer, python: Path) -> Path:
        return ensure_trained(
            peer,
            python,
            dataset,
            output_dir,
            seed=seed,
            num_threads=num_threads,
            max_minutes=max_minutes,
            device=device,
        )

    return _open(peers, make, num_threads, stack)


def open_untrained_peers(
    peers: Sequence[Peer],
    num_items: int,
    output_dir: Path,
    *,
    width: int,
    seed: int,
    num_threads: int,
    stack: ExitStack,
) -> tuple[list[PeerRunner], list[Failure]]:
    """Serve peers of random weights, those that can be without events; as `open_peers`."""

    def make(peer: Peer, python: Path) -> Path:
        folder = output_dir / peer.name.replace(" ", "-") / "untrained"
        return make_untrained(
            peer, python, num_items, folder, width=width, seed=seed, num_threads=num_threads
        )

    able = [peer for peer in peers if peer.can_be_untrained]
    return _open(able, make, num_threads, stack)


def _open(
    peers: Sequence[Peer],
    make: Callable[[Peer, Path], Path],
    num_threads: int,
    stack: ExitStack,
) -> tuple[list[PeerRunner], list[Failure]]:
    """Build each peer's environment, let `make` write its model with it, and serve that."""
    runners: list[PeerRunner] = []
    failures: list[Failure] = []
    for peer in peers:
        try:
            python = ensure_environment(peer.requirements)
            folder = make(peer, python)
        except SeqRecError as error:
            failures += [Failure.of(system, "-", error) for system in peer.modes.values()]
            continue
        served, refused = _serve(peer, python, folder, num_threads, stack)
        runners += served
        failures += refused
    return runners, failures


def _serve(
    peer: Peer,
    python: Path,
    folder: Path,
    num_threads: int,
    stack: ExitStack,
) -> tuple[list[PeerRunner], list[Failure]]:
    """Start a peer's workers, one for each mode."""
    runners: list[PeerRunner] = []
    failures: list[Failure] = []
    for mode, system in peer.modes.items():
        try:
            runner = PeerRunner(peer, mode, python, folder, num_threads=num_threads)
        except SeqRecError as error:
            failures.append(Failure.of(system, "-", error))
            continue
        stack.callback(runner.close)
        runners.append(runner)
    return runners, failures

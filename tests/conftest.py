"""A data set and language models small enough to train on within seconds."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset, write_dataset
from seqrec.errors import SourceError
from seqrec.fetch import fetch_npm_package
from seqrec.knowledge import Knowledge, load_knowledge, save_knowledge
from seqrec.splits import choose_cold_items, hold_out_items, leave_one_out

import numpy as np
import polars as pl
import pytest
import torch

ONNXRUNTIME_NODE = "onnxruntime-node@1.30.0"
USER_CACHE = os.environ.get("SEQREC_CACHE")

# In shelf order: whoever finishes one book takes the next on the shelf, or skips it now and then.
SHELF = {
    "Detective, Mystery": [
        "A Study in Scarlet",
        "The Sign of the Four",
        "The Hound of the Baskervilles",
        "The Moonstone",
        "The Woman in White",
        "Trent's Last Case",
    ],
    "Horror, Gothic": [
        "The Castle of Otranto",
        "Frankenstein",
        "Carmilla",
        "Dracula",
        "The Turn of the Screw",
        "The Monk",
    ],
    "Science Fiction": [
        "The Time Machine",
        "The War of the Worlds",
        "The Invisible Man",
        "From the Earth to the Moon",
        "Journey to the Center of the Earth",
        "Twenty Thousand Leagues Under the Sea",
    ],
    "Adventure, Sea": [
        "Treasure Island",
        "Robinson Crusoe",
        "Moby-Dick",
        "The Sea-Wolf",
        "Kidnapped",
        "King Solomon's Mines",
    ],
    "Romance, Comedy of Manners": [
        "Pride and Prejudice",
        "Emma",
        "Persuasion",
        "Jane Eyre",
        "Wuthering Heights",
        "Les Misérables",
    ],
}
NUM_USERS = 40
SKIP_PROBABILITY = 0.1


@pytest.fixture(scope="session")
def tiny_items() -> pl.DataFrame:
    """Thirty books: `item_id` "b01".."b30", `title`, `category`; row i is item i + 1."""
    rows = [(title, category) for category, titles in SHELF.items() for title in titles]
    return pl.DataFrame(
        {
            "item_id": [f"b{number:02d}" for number in range(1, len(rows) + 1)],
            "title": [title for title, _ in rows],
            "category": [category for _, category in rows],
        }
    )


@pytest.fixture(scope="session")
def tiny_sequences(tiny_items: pl.DataFrame) -> list[list[int]]:
    """Forty users with 3 to 20 books each, none twice, as item numbers 1..30."""
    rng = np.random.default_rng(0)
    sequences = []
    for user in range(NUM_USERS):
        length = 3 + user * 17 // (NUM_USERS - 1)  # 3..20
        steps = 1 + (rng.random(length) < SKIP_PROBABILITY)
        shelf_places = rng.integers(len(tiny_items)) + np.cumsum(steps)
        sequences.append((shelf_places % len(tiny_items) + 1).tolist())
    return sequences


@pytest.fixture(scope="session")
def tiny_dataset(
    tiny_items: pl.DataFrame,
    tiny_sequences: list[list[int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> SequenceDataset:
    """The thirty books and forty users as a prepared data set, split leave-one-out."""
    lengths = np.array([len(sequence) for sequence in tiny_sequences], dtype=np.int64)
    return write_dataset(
        tmp_path_factory.mktemp("data") / "tiny",
        name="tiny",
        items=tiny_items,
        user_ids=pl.Series([f"u{user:02d}" for user in range(NUM_USERS)]),
        events=np.concatenate(tiny_sequences).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        split=leave_one_out(lengths),
        split_name="leave-one-out",
        provenance={"source": "made by tests/conftest.py"},
    )


@pytest.fixture
def write_sequences(tmp_path: Path) -> Callable[[list[list[int]], int], SequenceDataset]:
    """Return what writes users' sequences of items 1..I as a data set, split leave-one-out."""

    def write(sequences: list[list[int]], num_items: int) -> SequenceDataset:
        lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        titles = [f"title {item}" for item in range(1, num_items + 1)]
        return write_dataset(
            tmp_path / "written",
            name="written",
            items=pl.DataFrame({"item_id": titles, "title": titles}),
            user_ids=pl.Series([f"u{user}" for user in range(len(sequences))]),
            events=np.concatenate(sequences).astype(np.int32),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            split=leave_one_out(lengths),
            split_name="leave-one-out",
            provenance={},
        )

    return write


@pytest.fixture
def make_knowledge(tmp_path: Path) -> Callable[..., Knowledge]:
    """Return what writes and opens knowledge whose states are given, or else drawn by chance."""

    def make(
        dataset: SequenceDataset,
        states: np.ndarray | None = None,  # (P, D), of all prefixes
        item_vectors: np.ndarray | None = None,  # (I + 1, D)
        *,
        prefixes_per_user: int = 1000,
        seed: int = 0,
        text_seed: int = 0,
        name: str = "knowledge",
    ) -> Knowledge:
        rng = np.random.default_rng(seed)
        num_prefixes = int(dataset.train_lengths.sum())
        if states is None:
            states = rng.normal(size=(num_prefixes, 6))
        if item_vectors is None:
            item_vectors = rng.normal(size=(dataset.num_items + 1, states.shape[1]))
            item_vectors[0] = 0
        texts = np.random.default_rng(text_seed).normal(size=(dataset.num_items + 1, 5))
        texts[0] = 0
        save_knowledge(
            tmp_path / name,
            dataset,
            iter([(np.arange(num_prefixes), states)]),
            item_vectors,
            text_components=texts,
            text_map=np.random.default_rng(text_seed).normal(size=(8, 5)),
            prefixes_per_user=prefixes_per_user,
            teacher={"model": "made by tests/conftest.py"},
        )
        return load_knowledge(tmp_path / name, dataset)

    return make


@pytest.fixture(scope="session")
def save_student() -> Callable[..., Path]:
    """Return what saves a student of random weights into a folder, given a data set and a shape."""
    from student.model import Student, StudentConfig

    def save(
        folder: Path,
        dataset: SequenceDataset,
        *,
        role: str = "control",
        arch: Any = "gru",
        seed: int = 0,
        **shape: int,
    ) -> Path:
        torch.manual_seed(seed)
        student = Student(StudentConfig(arch=arch, num_items=dataset.num_items, **shape)).eval()
        student.save_pretrained(folder, role=role, dataset_fingerprint=dataset.fingerprint)
        return folder

    return save


CHROMIUM_FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-dev-shm-usage "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, with a profile of its own."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason='Playwright is not installed: pip install -e ".[dev]"'
    )
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium is not on the PATH (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep what tests cache apart from the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["SEQREC_CACHE"] = str(folder)
    return folder


def give_user_cache(patch: pytest.MonkeyPatch) -> None:
    if USER_CACHE is None:
        patch.delenv("SEQREC_CACHE")
    else:
        patch.setenv("SEQREC_CACHE", USER_CACHE)


@pytest.fixture
def user_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give one test the user's cache back, so that real weights are fetched once."""
    give_user_cache(monkeypatch)


@pytest.fixture(scope="session")
def onnxruntime_web(own_cache: Path) -> Path:
    """The folder of the real onnxruntime-web, fetched once and kept in the user's cache."""
    from export.to_web import ONNXRUNTIME_WEB

    with pytest.MonkeyPatch.context() as patch:
        give_user_cache(patch)
        try:
            return fetch_npm_package(ONNXRUNTIME_WEB)
        except SourceError as error:
            pytest.skip(str(error))


@pytest.fixture(scope="session")
def tiny_llm(tiny_items: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Llama of random weights, three layers, and a tokenizer of the tiny titles."""
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=200,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return save_tiny_model(LlamaModel(config), tiny_items, tmp_path_factory.mktemp("llm") / "llama")


@pytest.fixture(scope="session")
def tiny_bert(tiny_items: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BERT of random weights, two layers, and the same tokenizer."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=200,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    return save_tiny_model(BertModel(config), tiny_items, tmp_path_factory.mktemp("llm") / "bert")


@pytest.fixture(scope="session")
def save_model(tiny_items: pl.DataFrame) -> Callable[[torch.nn.Module, Path], Path]:
    """Return what saves a model of 200 words and a tokenizer of the tiny titles into a folder."""
    return lambda model, folder: save_tiny_model(model, tiny_items, folder)


def save_tiny_model(model: torch.nn.Module, items: pl.DataFrame, folder: Path) -> Path:
    """Save a transformers model with a word tokenizer trained on the items' titles."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(vocab_size=200, special_tokens=["[UNK]", "[PAD]"])
    tokenizer.train_from_iterator(items["title"].to_list(), trainer)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with our package for JavaScript, packed and installed, and onnxruntime-node.

    Install scripts do not run: onnxruntime-node's is for GPUs.
    """
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("node and npm are not on the PATH (Debian: apt-get install nodejs npm)")
    folder = tmp_path_factory.mktemp("node")
    ours = Path(__file__).parents[1] / "export" / "npm"
    command = ["npm", "pack", str(ours)]
    packed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    archive = packed.stdout.split()[-1]
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]
    command += [ONNXRUNTIME_NODE, f"./{archive}"]
    try:
        installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not fetch {ONNXRUNTIME_NODE} within 300 s")
    if installed.returncode != 0:
        last = installed.stderr.strip().splitlines()[-1:]
        pytest.skip(f"npm cannot fetch {ONNXRUNTIME_NODE}: {last}")
    return folder


@pytest.fixture(scope="session")
def tiny_cold(
    tiny_dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory
) -> SequenceDataset:
    """The tiny set with six of the thirty books held out."""
    cold_items = choose_cold_items(tiny_dataset.events, 0.2, seed=0)
    events, offsets, split = hold_out_items(
        tiny_dataset.events, tiny_dataset.offsets, tiny_dataset.split, cold_items
    )
    return write_dataset(
        tmp_path_factory.mktemp("cold") / "tiny-cold",
        name="tiny-cold",
        items=tiny_dataset.items,
        user_ids=pl.read_parquet(tiny_dataset.path / "user_ids.parquet")["user_id"],
        events=events,
        offsets=offsets,
        split=split,
        split_name="leave-one-out",
        provenance={},
        cold_items=cold_items,
    )


@pytest.fixture(scope="session")
def tiny_cold_run(
    tiny_cold: SequenceDataset, tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run on it: teacher, knowledge, and a GRU and a Transformer with their controls."""
    from accelerate import Accelerator

    from student.config import DistillConfig
    from student.distilling import distil
    from teacher.config import FinetuneConfig
    from teacher.tuning import run

    path = tmp_path_factory.mktemp("run")
    shape = {"num_layers": 1, "num_epochs": 1, "item_dim": 16, "num_threads": 1}
    where = {"output_dir": path, "device": "cpu"}
    run(FinetuneConfig(data_dir=(tiny_cold.path,), model=str(tiny_llm), **where, **shape))
    knowledge = load_knowledge(path / "knowledge", tiny_cold)
    where["data_dir"] = tiny_cold.path
    config = DistillConfig(**where, num_epochs=2, hidden_dim=16, batch_size=16, max_len=7)
    for arch in ("gru", "transformer"):
        for role, known in (("control", None), ("distilled", knowledge)):
            folder = path / "students" / arch / role
            distil(arch, config, tiny_cold, known, folder, Accelerator(cpu=True))
    return path

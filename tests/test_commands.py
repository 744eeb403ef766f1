"""Every command that a page, a message or a docstring tells to type: it exists, with its flags.

Commands are collected from the text of the sources, so a new message is checked as soon as it is
there.
"""

import ast
import dataclasses
import importlib
import importlib.util
import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from seqrec.config import DEFAULT_DATA_DIR, default_output_dir, option, parse_flags
from seqrec.data import SequenceDataset
from seqrec.errors import SeqRecError

import polars as pl
import pytest

from export.recommender import Recommender

ROOT = Path(__file__).parents[1]
PACKAGES = ("seqrec", "teacher", "student", "export", "benchmarks")
DOCS = tuple(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))
PAGES = ("README.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md", *DOCS)
STARTS = re.compile(r"(?P<quote>`?)(?P<start>accelerate launch|python -m)(?= )")
SENTENCE_ENDS = ".,;:)`'\"<"
LAUNCHER = {"--config_file", "--num_processes", "-m"}  # accelerate's own
AS_MODULES = ("teacher.extract", "teacher.tune_reader")  # what is launched with -m
VALUE = "VALUE"  # what a message fills in


class Command(NamedTuple):
    """The page or line it stands in, what it starts ("export.score"), and its words after that."""

    source: str
    target: str
    words: tuple[str, ...]

    @property
    def flags(self) -> set[str]:
        started = (word for word in self.words if word.startswith("-") and word not in LAUNCHER)
        return {word.partition("=")[0] for word in started}


def texts() -> Iterator[tuple[str, str]]:
    """Yield pages, and every string of the sources, each after its source."""
    for page in PAGES:
        yield page, (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    for script in sorted((ROOT / "export" / "web").glob("*.[jh]*")):
        yield script.name, script.read_text(encoding="utf-8")
    for file in (file for name in PACKAGES for file in sorted((ROOT / name).glob("**/*.py"))):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        parts = {p for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for p in n.values}
        for node in ast.walk(tree):
            source = f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                known = [p.value if isinstance(p, ast.Constant) else VALUE for p in node.values]
                yield source, "".join(map(str, known))
            elif isinstance(node, ast.Constant) and node not in parts:
                if isinstance(node.value, str):
                    yield source, node.value.replace("\\\n", " ")


def commands_in(source: str, text: str) -> Iterator[Command]:
    for match in STARTS.finditer(text):
        rest = text[match.end() :]
        rest = rest.partition("`")[0] if match["quote"] else rest.partition("\n")[0]
        words: list[str] = []
        for word in rest.split():
            words.append(word.rstrip(SENTENCE_ENDS))
            if words[-1] != word:
                break
        if match["start"] == "accelerate launch":
            for flag, value in itertools.pairwise(words):
                if flag == "--config_file":
                    assert (ROOT / value).is_file(), f"{source}: {value}"
            launched = (w for w in words if w.endswith(".py") or w in AS_MODULES)
            if (program := next(launched, None)) is None:
                continue
            words = words[words.index(program) :]
            words[0] = program.removesuffix(".py").replace("/", ".")
        yield Command(source, words[0], tuple(words[1:]))


@cache
def all_commands() -> list[Command]:
    return [command for source, text in texts() for command in commands_in(source, text)]


def is_ours(target: str) -> bool:
    return target.split(".")[0] in PACKAGES


@cache
def config_of(target: str) -> type | None:
    """Return the dataclass of an entry point's flags, by what it hands to `parse_flags`."""
    configs: list[type] = []

    class Enough(Exception):
        pass

    def note(config_class: type, *_: Any) -> None:
        configs.append(config_class)
        raise Enough

    if target.endswith("_worker"):  # it takes no flags, and runs in another environment
        return None
    if target == "benchmarks.baselines":
        target = "benchmarks.baselines.__main__"
    module = importlib.import_module(target)
    if not hasattr(module, "parse_flags"):
        return None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "parse_flags", note)
        with pytest.raises(Enough):
            module.main()
    return configs[0]


def flags_of(config: type) -> set[str]:
    names = {option(field.name) for field in dataclasses.fields(config)}
    return names | {"--no-" + name[2:] for name in names} | {"--help", "--version"}


def test_the_collection_finds_commands_of_all_kinds() -> None:
    """By hand, and some that are known to be there."""
    text = (
        "Train: accelerate launch --config_file configs/multi_gpu.yaml teacher/finetune.py --x 1."
    )
    assert list(commands_in("here", text)) == [Command("here", "teacher.finetune", ("--x", "1"))]
    text = "(python -m export.to_onnx), or name it with --y"
    assert list(commands_in("here", text)) == [Command("here", "export.to_onnx", ())]
    targets = {command.target for command in all_commands()}
    assert targets >= {"teacher.finetune", "teacher.extract", "student.distill", "export.score"}
    assert len(all_commands()) > 80


def test_every_command_that_is_told_exists_with_its_flags() -> None:
    for command in all_commands():
        if not is_ours(command.target):
            assert importlib.util.find_spec(command.target), command
            continue
        module = ROOT / command.target.replace(".", "/")
        assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file(), command
        config = config_of(command.target)
        if config is None:
            continue
        assert command.flags <= flags_of(config), command
        needed = [f for f in dataclasses.fields(config) if f.default is dataclasses.MISSING]
        lacking = {option(f.name) for f in needed} - command.flags
        if command.source in PAGES:  # it is understood as it stands
            words = [re.sub(r"^[NW]$", "2", word) for word in command.words]
            assert parse_flags(config, "", words), command
        elif not command.flags and command.target not in NAMED:
            assert not lacking, command


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_that_a_page_names_exists(page: str) -> None:
    configs = [config_of(c.target) for c in all_commands() if is_ours(c.target)]
    flags = {flag for config in configs if config for flag in flags_of(config)}
    flags |= {"--editable", "--no-deps"}  # pip's
    flags |= {"--config_file", "--num_processes"}  # accelerate's
    flags |= {"--ignore-scripts", "--logdir"}  # npm's, TensorBoard's
    text = (ROOT / page).read_text(encoding="utf-8")
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", text)) <= flags


# Modules that a docstring only names: they have to be told what to read.
NAMED = {"export.add_items", "export.nightly", "export.publish", "seqrec.prepare"}


def test_all_stages_meet_in_the_same_folders_without_flags() -> None:
    """What one command writes without flags, the next one reads without flags."""
    assert DEFAULT_DATA_DIR == Path("data/ml-100k")
    runs = default_output_dir(DEFAULT_DATA_DIR)
    assert runs == Path("runs/ml-100k")
    exported = {runs / "export" / f"{arch}-distilled-int8" for arch in ("gru", "transformer")}
    targets = {one.target for one in all_commands() if is_ours(one.target)}
    for target in sorted(targets):
        config = config_of(target)
        for field in dataclasses.fields(config) if config else ():
            default = field.default
            if field.name == "data_dir" and default is not None:
                assert default in (DEFAULT_DATA_DIR, (DEFAULT_DATA_DIR,)), target
            elif field.name in ("model_dir", "folder"):
                if default not in (dataclasses.MISSING, None):
                    assert default in exported, target
            elif field.name == "site_dir":
                assert default == runs / "web", target
            elif isinstance(default, Path):  # what it writes, or a kept run's file
                assert not default.is_absolute() or ROOT in default.parents, (target, field.name)
                assert default.parts[:2] != ("data", "data"), (target, field.name)


# --- After `make demo`, no flags ------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(
    tiny_dataset: SequenceDataset,
    save_student: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What `make demo` leaves, with a small data set and students of random weights."""
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(tiny_dataset.path, folder / DEFAULT_DATA_DIR)
    for arch, role in itertools.product(("gru", "transformer"), ("control", "distilled")):
        student = folder / "runs" / "ml-100k" / "students" / arch / role
        save_student(student, tiny_dataset, arch=arch, role=role, hidden_dim=16)
    return folder


def test_the_commands_after_the_demo_run_without_flags(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo)
    monkeypatch.setattr("sys.argv", ["command"])
    runs = Path("runs/ml-100k")
    run = {
        name: importlib.import_module(f"export.{name}").main
        for name in ("to_onnx", "to_mobile", "score")
    }
    run["to_onnx"]([])
    exported = {folder.name for folder in (runs / "export").iterdir()}
    assert exported == {
        f"{arch}-{role}-{precision}"
        for arch in ("gru", "transformer")
        for role in ("control", "distilled")
        for precision in ("fp32", "int8")
    }
    run["to_mobile"]([])
    mobile = Recommender.from_pretrained(runs / "mobile" / "transformer-distilled-int8")
    assert len(mobile.recommend(["b07"])) == 10
    run["score"]()
    lists = pl.read_parquet("recommended/part-*.parquet")
    assert len(lists) == 40
    assert lists["item_ids"].list.len().to_list() == [10] * 40
    with pytest.raises(SeqRecError, match=r"no fine-tuned teacher in runs/ml-100k/teacher\. Train"):
        importlib.import_module("benchmarks.latency").main([])  # it is not part of this demo
    # What needs npm, a language model, an emulator or another environment finds the student.
    targets = [f"export.{name}" for name in ("to_web", "to_text_encoder", "to_executorch")]
    for target in [*targets, "tests.reliability.check_arm"]:
        config = config_of(target)
        assert config is not None
        assert Recommender.from_pretrained(config().model_dir).recommend(["b07"])

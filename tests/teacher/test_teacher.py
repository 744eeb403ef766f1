"""The teacher on a language model of random weights; `test_real_model.py` loads the real one."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from seqrec import schedule
from seqrec.batching import TrainingBatches, prefix_offsets
from seqrec.data import SequenceDataset
from seqrec.errors import ModelError
from seqrec.files import read_json, write_json
from seqrec.histories import PAD
from seqrec.item_table import FusedItemTable
from seqrec.knowledge import load_knowledge

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BitsAndBytesConfig

from teacher.base import compute_dtype
from teacher.config import Bits
from teacher.extracting import extract_knowledge
from teacher.model import Teacher, next_item_loss
from teacher.tuning import build_teacher
from tests.teacher.models import ModelFolder, flags_for


def make_teacher(dataset: SequenceDataset, llm: Path, bits: Bits = 4) -> Teacher:
    flags = flags_for(llm, num_layers=2, max_len=6, item_dim=16, lora_rank=4, bits=bits)
    teacher = build_teacher(flags, dataset, torch.device("cpu")).eval()
    with torch.no_grad():  # a fresh adapter adds nothing; give it something to say
        for name, parameter in teacher.named_parameters():
            if "lora_B" in name or "output_projection" in name:
                parameter.normal_(std=0.05)
    return teacher


@pytest.fixture(scope="module")
def teacher(tiny_dataset: SequenceDataset, tiny_llm: Path) -> Teacher:
    return make_teacher(tiny_dataset, tiny_llm)


def test_the_adapter_on_every_linear_layer_and_the_head_are_trained(teacher: Teacher) -> None:
    trained = {name for name, p in teacher.named_parameters() if p.requires_grad}
    adapter = {name for name in trained if name.startswith("base.")}
    assert all(".lora_" in name for name in adapter)
    adapted = {name.split(".lora_")[0].rsplit(".", 1)[1] for name in adapter}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    heads = {name.split(".")[0] for name in trained - adapter}
    assert heads == {"item_table", "input_projection", "output_projection"}


def test_an_untuned_teacher_answers_with_the_decaying_mean_of_the_texts(
    tiny_dataset: SequenceDataset, tiny_llm: Path
) -> None:
    flags = flags_for(tiny_llm, num_layers=2, max_len=6, item_dim=16, lora_rank=4, bits=32)
    teacher = build_teacher(flags, tiny_dataset, torch.device("cpu")).eval()
    with torch.no_grad():
        rows = teacher.item_vectors()
        mean = (rows[3] / 4 + rows[1] / 2 + rows[4]) / 2  # the newest, item 4, counts most
        state = torch.nn.functional.layer_norm(mean, mean.shape)
        torch.testing.assert_close(teacher.encode(torch.tensor([[PAD, 3, 1, 4]]))[0, -1], state)


def test_scores_do_not_depend_on_padding_or_on_others_in_the_batch(teacher: Teacher) -> None:
    histories = [[3, 1, 4], [5], [9, 2, 6, 5, 3, 8]]
    batch = torch.tensor([[PAD] * (6 - len(h)) + h for h in histories])
    with torch.inference_mode():
        together = teacher(batch)
        for row, history in enumerate(histories):
            alone = teacher(torch.tensor([history]))
            torch.testing.assert_close(together[row], alone[0], atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("model", ["tiny_llm", "tiny_bert"])  # an encoder is made causal
def test_the_state_after_an_item_does_not_know_the_next_one(
    tiny_dataset: SequenceDataset, model: str, request: pytest.FixtureRequest
) -> None:
    teacher = make_teacher(tiny_dataset, request.getfixturevalue(model))
    with torch.inference_mode():
        states = teacher.encode(torch.tensor([[3, 1, 4, 1]]))
        changed = teacher.encode(torch.tensor([[3, 1, 4, 20]]))
    torch.testing.assert_close(states[:, :3], changed[:, :3], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(states[:, 3], changed[:, 3], atol=1e-3)


def test_a_teacher_comes_back_from_disk_with_the_same_answers(
    teacher: Teacher, tmp_path: Path
) -> None:
    teacher.save_pretrained(tmp_path)
    again = Teacher.from_pretrained(tmp_path)
    items = torch.tensor([[3, 1, 4]])
    with torch.inference_mode():
        assert torch.equal(again(items), teacher(items))


def cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def say(**values: object) -> Callable[[Path], object]:
    """Return what changes values of a JSON file."""
    return lambda file: write_json(file, {**read_json(file), **values})


def as_an_older_version(head: Path) -> None:
    tensors = load_file(head)
    del tensors["untrained"], tensors["text_map"]
    save_file(tensors, head)


def as_of_another_teacher(weights: Path) -> None:
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("head.safetensors", cut_in_half, "invalid|incomplete|small"),
        ("head.safetensors", as_an_older_version, "lacks text_map, untrained"),
        ("adapter/adapter_model.safetensors", cut_in_half, "invalid|incomplete|small"),
        ("adapter/adapter_model.safetensors", Path.unlink, "adapter_model.safetensors is missing"),
        ("adapter/adapter_config.json", Path.unlink, "adapter_config.json is missing"),
        ("adapter/adapter_config.json", say(r=10**9), "says rank 1000000000"),  # half a terabyte
        ("teacher.json", say(num_items=10**12), "item table is of shape"),
        ("teacher.json", say(strange=1), "strange"),
        ("head.safetensors", as_of_another_teacher, "not the file that was written here"),
        ("adapter/adapter_model.safetensors", as_of_another_teacher, "not the file that was"),
        ("teacher.json", say(format=1), "of format 1, this version answers with format 2"),
    ],
)
def test_a_damaged_teacher_is_refused_in_one_line_with_the_command_that_makes_another(
    teacher: Teacher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    damage: Callable[[Path], object],
    message: str,
) -> None:
    teacher.save_pretrained(tmp_path)
    damage(tmp_path / name)
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: asked.append(1))
    with pytest.raises(
        ModelError, match=rf"no usable teacher in .*({message}).*train again: accelerate launch"
    ) as raised:
        Teacher.from_pretrained(tmp_path)
    assert "\n" not in str(raised.value)
    assert asked == []  # a missing file is not looked for on the model hub


def test_plain_peft_loads_the_adapter_onto_the_same_base(
    teacher: Teacher, tiny_llm: Path, tmp_path: Path
) -> None:
    teacher.save_pretrained(tmp_path)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype("cpu"),
    )
    plain = AutoModel.from_pretrained(
        tiny_llm, num_hidden_layers=2, quantization_config=quantization, device_map={"": "cpu"}
    )
    adapted = PeftModel.from_pretrained(plain, str(tmp_path / "adapter"))
    ours = {n: p for n, p in teacher.base.named_parameters() if "lora_" in n}
    theirs = {n: p for n, p in adapted.named_parameters() if "lora_" in n}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all("lora_" in name for name in stored)  # and nothing else is in the file


def test_gradients_still_reach_the_first_layer_after_an_evaluation(
    tiny_dataset: SequenceDataset, tiny_llm: Path
) -> None:
    teacher = make_teacher(tiny_dataset, tiny_llm)
    items = torch.tensor([[3, 1, 4]])

    def first_layer_gradient() -> torch.Tensor:
        teacher.zero_grad()
        teacher.train().dropout.eval()
        teacher(items)[0, 5].backward()
        name = "base.base_model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
        gradient = dict(teacher.named_parameters())[name].grad
        assert gradient is not None
        return gradient.clone()

    before = first_layer_gradient()
    with torch.no_grad():
        teacher.eval()(items)
    assert before.abs().max() > 0
    torch.testing.assert_close(first_layer_gradient(), before)


@pytest.mark.parametrize("prefixes_per_user", [3, 1000])
def test_states_times_item_vectors_are_the_teachers_scores(
    tiny_dataset: SequenceDataset, tiny_llm: Path, tmp_path: Path, prefixes_per_user: int
) -> None:
    teacher = make_teacher(tiny_dataset, tiny_llm)
    extract_knowledge(
        teacher,
        tiny_dataset,
        tmp_path,
        Accelerator(cpu=True),
        prefixes_per_user=prefixes_per_user,
        batch_size=4,
    )
    knowledge = load_knowledge(tmp_path / "knowledge", tiny_dataset)
    logits = knowledge.states.astype(np.float32) @ knowledge.item_vectors.astype(np.float32).T
    offsets = prefix_offsets(tiny_dataset)
    for user in range(0, tiny_dataset.num_users, 3):
        sequence = tiny_dataset.train_sequence(user).astype(np.int64)
        rows = knowledge.rows[offsets[user] : offsets[user + 1]]
        assert (rows[-prefixes_per_user:] >= 0).all()
        # `max_len` is 6, windows are 3 apart: position 5 is the last one answered from the first
        # window, 6 to 8 are answered from the items 3 on, 9 to 11 from the items 6 on.
        for position in {0, 5, 6, 8, 9, len(sequence) - 1} & set(np.flatnonzero(rows >= 0)):
            start = 0 if position < 6 else position // 3 * 3 - 3
            with torch.inference_mode():
                scores = teacher(torch.from_numpy(sequence[None, start : position + 1]))[0]
            np.testing.assert_allclose(logits[rows[position], 1:], scores[1:], atol=2e-2)


def test_a_teacher_of_other_data_is_not_asked(
    teacher: Teacher, tiny_dataset: SequenceDataset, tmp_path: Path
) -> None:
    meta = {**tiny_dataset.meta, "fingerprint": "f" * 64}
    other = dataclasses.replace(tiny_dataset, meta=meta)
    with pytest.raises(ModelError, match=r"trained on data set .* Train it again"):
        extract_knowledge(
            teacher, other, tmp_path, Accelerator(cpu=True), prefixes_per_user=9, batch_size=4
        )
    assert list(tmp_path.iterdir()) == []


# --- What an answer costs -------------------------------------------------------------------------


@pytest.mark.parametrize("large_catalogue", [10, 1000])  # from so many items on
def test_an_answer_works_out_the_items_once_until_more_is_learnt(
    tiny_dataset: SequenceDataset,
    tiny_llm: Path,
    monkeypatch: pytest.MonkeyPatch,
    large_catalogue: int,
) -> None:
    monkeypatch.setattr(schedule, "LARGE_CATALOGUE", large_catalogue)
    teacher = make_teacher(tiny_dataset, tiny_llm)
    items = torch.tensor([[0, 3, 1], [4, 5, 6]])
    expected = teacher(items)  # where gradients are kept, nothing is
    calls = []
    original = FusedItemTable.weight.fget
    monkeypatch.setattr(
        FusedItemTable, "weight", property(lambda self: calls.append(1) or original(self))
    )
    with torch.inference_mode():
        answered = [teacher(items) for _ in range(3)]
    assert calls == [1]
    assert all(torch.equal(answer, expected) for answer in answered)
    teacher.train()
    teacher.item_table.residual.weight.data[1:] += 1
    with torch.no_grad():
        changed = teacher.eval()(items)
    assert not torch.allclose(changed, expected)
    torch.testing.assert_close(changed, teacher(items).detach())


def test_the_bytes_of_an_answer_are_those_of_the_weights_that_it_takes(
    model_folder: ModelFolder, tiny_dataset: SequenceDataset
) -> None:
    flags = flags_for(model_folder("llama"), bits=4)
    teacher = build_teacher(flags, tiny_dataset, torch.device("cpu"))
    # Of one layer, width 32 and 48 inside, 2 heads of 16, one of keys and values.
    linear = 32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 48
    layers, blocks = 7, linear // 64
    # A byte for each block's constant, and for each layer: NF4's 16 values, and of the constants
    # the mean, their 256 values and a number for each 256.
    nf4 = linear // 2 + blocks + layers * 4 * (16 + 1 + 256 + 1)
    item_dim, norms = 8, 3 * 32
    lora = sum(p.numel() for n, p in teacher.named_parameters() if "lora_" in n)
    head = 31 * item_dim + (item_dim * 32 + 32) + (32 * item_dim + item_dim)
    frequencies = sum(b.nbytes for b in teacher.base.buffers())
    assert teacher.answer_bytes == {
        "nf4": nf4,
        "other": 4 * (norms + lora + head) + frequencies,
    }


# --- Large catalogues ---------------------------------------------------------------------------


@pytest.fixture
def large_teacher(
    tiny_dataset: SequenceDataset, tiny_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> Teacher:
    monkeypatch.setattr(schedule, "LARGE_CATALOGUE", 10)
    return make_teacher(tiny_dataset, tiny_llm, bits=32)


def test_in_a_large_catalogue_a_teacher_gives_the_same_answers(
    large_teacher: Teacher, tiny_dataset: SequenceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = torch.tensor([[PAD, 3, 1], [4, 5, 6]])
    with torch.inference_mode():
        large = large_teacher(items)
        assert large_teacher.item_table.residual.sparse
        monkeypatch.setattr(schedule, "LARGE_CATALOGUE", tiny_dataset.num_items)
        torch.testing.assert_close(large, large_teacher(items))


def test_a_teachers_loss_is_exact_where_all_trained_items_are_negatives(
    large_teacher: Teacher, tiny_dataset: SequenceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    large_teacher.untrained[[7, 9]] = True  # what they score is in neither sum
    windows = TrainingBatches(tiny_dataset, 6, 8, 0)
    batch = next(windows.epoch(0)[1])
    batch = batch._replace(
        targets=torch.where((batch.targets == 7) | (batch.targets == 9), 1, batch.targets)
    )
    sampled = next_item_loss(large_teacher, batch)
    monkeypatch.setattr(schedule, "LARGE_CATALOGUE", tiny_dataset.num_items)
    torch.testing.assert_close(sampled, next_item_loss(large_teacher, batch))


def test_sampled_odds_add_up_to_those_of_all_on_average(large_teacher: Teacher) -> None:
    torch.manual_seed(0)
    states = torch.randn(4, large_teacher.config.item_dim)
    targets = torch.tensor([1, 2, 3, 4])
    with torch.no_grad():
        exact = large_teacher.training_scores(states)[:, 1:].exp().sum(dim=1)
        estimates = [
            large_teacher.sampled_scores(states, targets, torch.randperm(30)[:6] + 1)
            .exp()
            .sum(dim=1)
            for _ in range(3000)
        ]
    deviation = torch.stack(estimates).std(dim=0) / len(estimates) ** 0.5
    assert ((torch.stack(estimates).mean(dim=0) - exact).abs() < 5 * deviation).all()


def test_the_gradient_of_items_is_the_same_each_time_whatever_threads_do(teacher: Teacher) -> None:
    """Many rows of few items: added up in the order that threads come by, no two sums agree."""
    torch.manual_seed(0)
    items = torch.randint(1, 31, (400, 50))
    pull = torch.randn(400, 50, 16)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(4)
    teacher.train()
    try:
        gradients = []
        for _ in range(5):
            (teacher.vectors_of(items) * pull).sum().backward()
            gradients.append(teacher.item_table.residual.weight.grad.clone())  # type: ignore[union-attr]
            teacher.zero_grad()
    finally:
        teacher.eval()
        torch.set_num_threads(num_threads)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients[1:])
    expected = torch.zeros(31, 16, dtype=torch.float64)
    expected.index_add_(0, items.flatten(), pull.flatten(0, 1).double())
    torch.testing.assert_close(gradients[0].double(), expected, atol=1e-3, rtol=0)

"""The teacher: a language model that reads items as tokens and scores the whole catalogue.

Each item of the history enters the language model as one vector, a row of a fused item table
(`seqrec.item_table`): what the same language model reads in the item's text, projected, and a
residual of the item's own. The last state is compared with all rows. One item costs one
position, not all tokens of its title: a history of fifty items is a sequence of fifty (compare
E4SRec, arXiv:2312.02443; SLMRec, arXiv:2405.17890).

What the language model says is added to a decaying mean of the history's rows, and is zero at
first, as what LoRA adds is. So an untuned teacher ranks items by how near their texts are to those
of the newest items, and tuning goes on from there. The mean is normalised, or what is added soon
outweighs it: after an epoch with a tenth of Office's users validation is at .034, else at .007.

An item without any training event is its text alone: its residual is zero and stays so, since the
item is no input, no target, and left out of the softmax in training. Pushed down there as a wrong
answer to every question, it would be learned to be one.
Shape letters: B users, T history, I items, V width of item vectors, D width of the language model.
"""

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path

from seqrec.batching import Batch
from seqrec.data import IntArray
from seqrec.errors import ModelError
from seqrec.files import checksums_of, read_json, write_json
from seqrec.histories import PAD
from seqrec.item_table import FusedItemTable, most_components
from seqrec.schedule import NUM_TEACHER_NEGATIVES, is_large
from seqrec.training import draw_different

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    load_peft_weights,
    set_peft_model_state_dict,
)
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from teacher.base import (
    embed_sequence,
    load_base,
    num_4bit_parameters,
    resolve_model,
)
from teacher.check_folder import TAKE, article, first_line, model_fingerprint
from teacher.config import Bits, FullFinetuneConfig
from teacher.saved import FORMAT, WEIGHTS, read_head, reading_teacher, require_format
from teacher.shape import input_width, output_width


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The shape of a teacher; written to `teacher.json`."""

    model: str
    model_fingerprint: str
    dataset_fingerprint: str
    bits: Bits
    num_layers: int
    num_items: int
    item_dim: int
    max_len: int
    lora_rank: int
    lora_alpha: int
    dropout: float


def item_mask(items: IntArray, num_items: int) -> Tensor:
    """Mark items in a mask over the catalogue, bool (I + 1,)."""
    mask = torch.zeros(num_items + 1, dtype=torch.bool)
    mask[torch.from_numpy(items)] = True
    return mask


def decaying_mean(vectors: Tensor) -> Tensor:
    """Return m(t) = (m(t - 1) + v(t)) / 2 of vectors (B, T, V), m zero before the first."""
    steps = torch.arange(vectors.shape[1], device=vectors.device)
    weights = (0.5 ** (steps[:, None] - steps + 1.0)).tril()
    return weights.to(vectors) @ vectors


class Teacher(nn.Module):
    """A LoRA-adapted language model between an item input and an item output.

    Args:
        base: the language model, frozen, with its adapter.
        components: float16 (I + 1, C), the items' text components.
        text_map: float32 (L + 1, C), what makes them of a text vector.
        untrained: bool (I + 1,), the items without a training event.
        config: its shape.
    """

    text_map: Tensor
    untrained: Tensor

    def __init__(
        self,
        base: PeftModel,
        components: Tensor,
        text_map: Tensor,
        untrained: Tensor,
        config: TeacherConfig,
    ) -> None:
        super().__init__()
        self.config = config
        self.base = base
        self.register_buffer("text_map", text_map)
        self.register_buffer("untrained", untrained)
        self.item_table = FusedItemTable(components, config.item_dim, sparse=self.is_large)
        self.input_projection = nn.Linear(config.item_dim, input_width(self.base))
        self.output_projection = nn.Linear(output_width(self.base), config.item_dim)
        nn.init.zeros_(self.output_projection.weight)
        nn.init.zeros_(self.output_projection.bias)
        self.dropout = nn.Dropout(config.dropout)
        self._known_vectors: Tensor | None = None  # while nothing trains

    @property
    def is_large(self) -> bool:
        """Whether the catalogue is so large that training looks at a part of it in each step."""
        return is_large(self.config.num_items)

    def item_vectors(self) -> Tensor:
        """Return what stands for each item at input and output, (I + 1, V); row PAD is zero.

        While nothing trains it is worked out once.
        """
        if self.training or torch.is_grad_enabled():
            return self.item_table.weight
        if self._known_vectors is None:
            self._known_vectors = self.item_table.weight
        return self._known_vectors

    def vectors_of(self, items: Tensor) -> Tensor:
        """Return the same for some items, int64 (...): (..., V)."""
        if not self.is_large:
            # As an embedding: the gradient of indexing is summed in an order that threads decide.
            return nn.functional.embedding(items, self.item_vectors(), padding_idx=PAD)
        rows: Tensor = self.item_table(items)
        return rows

    def train(self, mode: bool = True) -> "Teacher":
        """Switch to training or to inference."""
        self._known_vectors = None
        return super().train(mode)

    def encode(self, items: Tensor) -> Tensor:
        """Map left-padded items, int64 (B, T), to states after each item, (B, T, V)."""
        # Inside, padding stands on the right: a causal model then never meets it, needs no mask,
        # and gives a user the same answer in any batch.
        num_real = (items != PAD).sum(dim=1, keepdim=True)
        columns = torch.arange(items.shape[1], device=items.device)
        to_left = (columns + items.shape[1] - num_real) % items.shape[1]  # (B, T)
        to_right = (columns + num_real) % items.shape[1]
        vectors = self.vectors_of(items.gather(1, to_left))
        states = embed_sequence(self.base, self.input_projection(self.dropout(vectors)))
        mean = nn.functional.layer_norm(decaying_mean(vectors), vectors.shape[-1:])
        states = mean + self.output_projection(self.dropout(states))
        return states.gather(1, to_right[..., None].expand_as(states))

    def scores(self, states: Tensor) -> Tensor:
        """Score all items for states (..., V): (..., I + 1); column PAD is no item."""
        return states @ self.item_vectors().T

    def training_scores(self, states: Tensor) -> Tensor:
        """Score all items as `scores` does; -inf for those without a training event."""
        return self.scores(states).masked_fill(self.untrained, -torch.inf)

    def sampled_scores(self, states: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
        """Score targets, and negatives that stand for all other items with a training event.

        The correction for uniform sampling (Bengio and Senecal, 2008) is added: each negative's
        odds count for as many items as it stands for, so that their sum is that of all others, on
        average. Where the target is among the negatives, it is there already: -inf.

        Args:
            states: float (P, V).
            targets: int64 (P,), 1..I.
            negatives: int64 (M,), different items with training events, uniformly sampled.

        Returns:
            float (P, 1 + M), targets first; for a cross-entropy with the class 0.
        """
        of_targets = (states * self.vectors_of(targets)).sum(dim=1, keepdim=True)
        hit = targets[:, None] == negatives  # (P, M)
        others = (~self.untrained[1:]).sum() - 1
        standing = (len(negatives) - hit.sum(dim=1, keepdim=True)).clamp(min=1)
        scores = states @ self.vectors_of(negatives).T + (others / standing).log()
        return torch.cat([of_targets, scores.masked_fill(hit, -torch.inf)], dim=1)

    def forward(self, items: Tensor) -> Tensor:
        """Score the next item for left-padded histories, int64 (B, T): (B, I + 1)."""
        return self.scores(self.encode(items)[:, -1])

    @property
    def device(self) -> torch.device:
        """Where the teacher is."""
        return self.untrained.device

    @property
    def num_parameters(self) -> int:
        """Number of weights: language model, adapter and head."""
        unpacked = sum(p.numel() for p in self.parameters() if p.is_floating_point())
        return unpacked + num_4bit_parameters(self)

    @property
    def answer_bytes(self) -> dict[str, int]:
        """Bytes that an answer is made of: `nf4`, weights in 4 bit and their constants; `other`.

        An item counts as the one vector that is kept of it, not as what that was made of.
        """
        made_of = {"item_table.components", "item_table.projection.weight", "text_map", "untrained"}
        sizes = {"nf4": 0, "other": 0}
        for name, tensor in itertools.chain(self.named_parameters(), self.named_buffers()):
            if name in made_of:
                continue
            state = getattr(tensor, "quant_state", None)
            sizes["other" if state is None else "nf4"] += tensor.nbytes
            while state is not None:  # the constants are quantized themselves
                sizes["nf4"] += state.absmax.nbytes + state.code.nbytes
                sizes["nf4"] += 0 if state.offset is None else state.offset.nbytes
                state = state.state2 if state.nested else None
        return sizes

    def save_pretrained(self, folder: Path) -> None:
        """Write `adapter/` (plain PEFT), `head.safetensors` and `teacher.json` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.base.save_pretrained(str(folder / "adapter"))
        head = {name: t for name, t in self.state_dict().items() if not name.startswith("base.")}
        save_file(head, folder / "head.safetensors")
        described = {"format": FORMAT, **dataclasses.asdict(self.config)}
        write_json(folder / "teacher.json", {**described, **checksums_of(folder, WEIGHTS)})

    def load_weights(self, folder: Path, numbers: IntArray | None = None) -> None:
        """Take over the weights that `save_pretrained` wrote of a teacher on the same base.

        Args:
            folder: where it is.
            numbers: int64 (I + 1,), the number that each item has there, PAD where it is new: its
                residual is zero then, and the row of a known item is what it was, although its
                text may be another today. None: the items are the same.

        Raises:
            ModelError: the files are damaged, or those of a teacher of another shape.
        """
        with reading_teacher(folder):
            self._load_weights(folder, numbers)

    def load_adapter(self, folder: Path) -> None:
        """Take over the adapter alone; see `load_weights`."""
        with reading_teacher(folder):
            read_head(folder)  # refuses files of different teachers
            self._load_adapter(folder)

    def _load_adapter(self, folder: Path) -> None:
        adapter = load_peft_weights(str(folder / "adapter"), device=str(self.device))
        if adapter.keys() != get_peft_model_state_dict(self.base).keys():
            raise ValueError("the adapter is that of another language model")
        set_peft_model_state_dict(self.base, adapter)

    def _load_weights(self, folder: Path, numbers: IntArray | None) -> None:
        head = read_head(folder)
        self._load_adapter(folder)
        if numbers is not None:
            there = torch.from_numpy(numbers)
            here = self.item_table.components.cpu()
            retold = head["item_table.components"][there].float() - here.float()
            retold[there == PAD] = 0
            residual = head["item_table.residual.weight"][there]
            residual += retold @ head["item_table.projection.weight"].T
            head |= {"item_table.residual.weight": residual, "item_table.components": here}
            head["untrained"] = self.untrained
        self._load_head(head)
        self._known_vectors = None

    def _load_head(self, head: dict[str, Tensor]) -> None:
        missing, unexpected = self.load_state_dict(head, strict=False)
        if unexpected or any(not name.startswith("base.") for name in missing):
            raise ValueError(f"head.safetensors does not fit teacher.json: {unexpected or missing}")

    @classmethod
    def from_pretrained(cls, folder: Path, *, device: torch.device | str = "cpu") -> "Teacher":
        """Load a teacher for inference, and the language model it was trained on.

        Raises:
            ModelError: there is no teacher in `folder`, its files are damaged or do not fit each
                other, or the language model of that name is another one today.
            SourceError: the language model cannot be had.
        """
        if not (folder / "teacher.json").is_file():
            raise ModelError(
                f"no teacher in {folder}. Train one: accelerate launch teacher/finetune.py"
            )
        with reading_teacher(folder):
            return cls._load(folder, device).eval()

    @classmethod
    def _load(cls, folder: Path, device: torch.device | str) -> "Teacher":
        described = read_json(folder / "teacher.json")
        require_format(described)
        shape = {name: described[name] for name in described.keys() - {"format", "sha256"}}
        config = TeacherConfig(**shape)
        model_folder = resolve_model(config.model)
        if model_fingerprint(model_folder) != config.model_fingerprint:
            raise ModelError(
                f"{config.model} is not the model that {folder} was trained on. Train the teacher "
                f"again: accelerate launch teacher/finetune.py --model {config.model}"
            )
        head = read_head(folder, (config.num_items + 1, config.item_dim))
        base = load_base(
            model_folder, bits=config.bits, num_layers=config.num_layers, device=device
        )
        teacher = cls(
            PeftModel.from_pretrained(base, str(folder / "adapter")),
            head["item_table.components"],
            head["text_map"],
            head["untrained"],
            config,
        )
        teacher._load_head(head)
        return teacher.to(device)


def with_adapter(base: PreTrainedModel, name: str, rank: int, alpha: int) -> PeftModel:
    """Put a LoRA adapter on all linear layers of a language model, which adds nothing at first.

    Raises:
        ModelError: no adapter can be put on the model, called by its `name`.
    """
    lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear")
    try:
        adapted: PeftModel = get_peft_model(base, lora)
    except ValueError as error:
        raise ModelError(
            f"{name} is {article(base.config.model_type)}, on which no adapter can be put "
            f"({first_line(error, 100)}). {TAKE}"
        ) from error
    return adapted


def next_item_loss(teacher: Teacher, batch: Batch) -> Tensor:
    """Cross-entropy over all items that training knows, at every real position.

    In a large catalogue the sum over them is estimated from a sample.
    """
    learn = batch.targets != PAD
    states, targets = teacher.encode(batch.items)[learn], batch.targets[learn]
    if not teacher.is_large:
        logits = teacher.training_scores(states)
        return nn.functional.cross_entropy(logits[:, 1:], targets - 1)
    trained = (~teacher.untrained[1:]).nonzero()[:, 0] + 1
    drawn = draw_different(len(trained), min(NUM_TEACHER_NEGATIVES, len(trained)))
    negatives = trained[torch.from_numpy(drawn).to(trained.device)]
    logits = teacher.sampled_scores(states, targets, negatives)
    return nn.functional.cross_entropy(logits, torch.zeros_like(targets))


def new_teacher(
    base: PreTrainedModel,
    untrained: Tensor,
    flags: FullFinetuneConfig,
    *,
    components: Tensor | None = None,
    text_map: Tensor | None = None,
    model_fingerprint: str = "",
    dataset_fingerprint: str = "",
) -> Teacher:
    """Put a teacher's trainable parts, drawn at random, on a language model.

    Args:
        base: from `load_base`.
        untrained: bool (I + 1,), the items without a training event.
        flags: the model's name, widths, ranks.
        components: as of `Teacher`, and so is `text_map`; None: zeros, where the texts do not
            matter.
        text_map: see `components`.
        model_fingerprint: of the language model; "" where nothing is saved.
        dataset_fingerprint: of what is trained on; likewise.

    Raises:
        ModelError: no adapter can be put on the model.
    """
    num_items, width = len(untrained) - 1, output_width(base)
    if components is None or text_map is None:
        num_components = most_components(num_items, width)
        components = torch.zeros(num_items + 1, num_components, dtype=torch.float16)
        text_map = torch.zeros(width + 1, num_components)
    adapted = with_adapter(base, flags.model, flags.lora_rank, flags.lora_alpha)
    shape = TeacherConfig(
        model=flags.model,
        model_fingerprint=model_fingerprint,
        dataset_fingerprint=dataset_fingerprint,
        bits=flags.bits,
        num_layers=base.config.num_hidden_layers,
        num_items=num_items,
        item_dim=flags.item_dim,
        max_len=flags.max_len,
        lora_rank=flags.lora_rank,
        lora_alpha=flags.lora_alpha,
        dropout=flags.dropout,
    )
    return Teacher(adapted, components, text_map, untrained, shape)

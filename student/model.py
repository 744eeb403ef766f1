"""The students: a GRU and a Transformer over item embeddings, tied between input and output.

Both map left-padded histories to scores for the next item, and both give a user the same scores
however much padding stands before the history and whoever else is in the batch.
Shape letters: B users, T history, I items, H hidden.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seqrec.errors import ModelError
from seqrec.files import checksums_of, read_json, require_checksums, write_json
from seqrec.histories import PAD
from seqrec.item_table import ROW_SCALE, FusedItemTable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name everyone knows

from student.text_map import FILE as TEXT_MAP_FILE

WEIGHTS = ("model.safetensors", TEXT_MAP_FILE)
LOWEST = torch.finfo(torch.float32).min
START_DECAY = 0.5  # of attention's logits per distance
Arch = Literal["gru", "transformer"]


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """The shape of a student."""

    arch: Arch
    num_items: int
    hidden_dim: int = 64
    num_layers: int = 1
    num_heads: int = 1
    dropout: float = 0.2
    max_len: int = 50  # the newest items that are looked at

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        for name in ("num_items", "hidden_dim", "num_layers", "num_heads", "max_len"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} {value!r} is no whole number above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} is not from 0 to below 1")
        if self.hidden_dim % self.num_heads:
            raise ValueError(
                f"hidden_dim {self.hidden_dim} is not a multiple of num_heads {self.num_heads}"
            )


class Dropout(nn.Module):
    """Inverted dropout whose masks cost a quarter of `nn.Dropout`'s on a CPU.

    There, torch draws one random number per element, one after another: a fifth of a student's
    training time. Here each draw of 64 bits decides eight elements, so the probability is rounded
    to a multiple of 1/256; kept elements are scaled by what it was rounded to.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.num_dropped = round(256 * probability)  # of 256 values of a byte

    def forward(self, values: Tensor) -> Tensor:
        """Zero random elements and scale the others up while training; do nothing otherwise."""
        if not self.training or self.num_dropped == 0:
            return values
        draws = torch.empty(-(-values.numel() // 8), dtype=torch.int64, device=values.device)
        draws.random_(torch.iinfo(torch.int64).min, None)
        kept = draws.view(torch.uint8)[: values.numel()].view(values.shape) >= self.num_dropped
        return values * (kept * (256 / (256 - self.num_dropped)))


class GRUEncoder(nn.Module):
    """Gated recurrent encoder, after GRU4Rec (arXiv:1511.06939).

    It has no biases: a zero input then leaves a zero state at zero, so left padding, whose
    embedding is zero, changes nothing, and the exported graph needs neither lengths nor packing.
    The states are normalised, so that scores can be of any size although a gate's are not.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        # The item table starts small, as scoring wants it; gates fed so little would hardly open.
        self.input_scale = config.hidden_dim**0.5
        dropout = config.dropout if config.num_layers > 1 else 0.0
        self.gru = nn.GRU(
            config.hidden_dim,
            config.hidden_dim,
            config.num_layers,
            bias=False,
            batch_first=True,
            dropout=dropout,
        )
        self.dropout = Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.hidden_dim)
        self._start_as_decaying_mean()

    @torch.no_grad()
    def _start_as_decaying_mean(self) -> None:
        """Let the gates be half open and the candidate be the input: h = (h + tanh(x)) / 2."""
        for name, weight in self.gru.named_parameters():
            nn.init.zeros_(weight)
            if name.startswith("weight_ih"):
                nn.init.eye_(weight[-self.gru.hidden_size :])  # the candidate's rows come last

    def forward(self, embedded: Tensor, real: Tensor, *, last_only: bool = False) -> Tensor:
        """Encode (B, T, H) to the state after each item (B, T, H), or the last, (B, 1, H)."""
        states, _ = self.gru(embedded * self.input_scale)
        normed: Tensor = self.norm(self.dropout(states[:, -1:] if last_only else states))
        return normed


class CausalBlock(nn.Module):
    """Pre-norm attention and feed-forward; position enters as a learned bias per distance.

    The bias is T5's (arXiv:1910.10683) with one bucket per distance, as in HSTU (arXiv:2402.17152).
    What an item contributes does not depend on where it stands, so neither padding nor a sliding
    window changes it, and keys and values can be kept between requests.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.num_heads, self.max_len = config.num_heads, config.max_len
        self.head_dim = dim // config.num_heads
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.attention_out = nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.dropout = Dropout(config.dropout)
        # Column max_len - 1 - d belongs to distance d: the last query's row is a plain slice.
        self.distance_bias = nn.Parameter(torch.zeros(config.num_heads, config.max_len))
        self._start_as_decaying_mean()

    @torch.no_grad()
    def _start_as_decaying_mean(self) -> None:
        """Let attention look at distance alone and pass on what it sees; nothing else is added."""
        for layer in (self.query, self.key_value, self.attention_out, self.down):
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.query.weight)
        nn.init.zeros_(self.down.weight)
        nn.init.eye_(self.attention_out.weight)
        eye = torch.eye(len(self.query.weight)).unflatten(0, (self.num_heads, -1))
        self.key_value.weight.unflatten(0, (self.num_heads, 2, -1))[:, 1] = eye
        self.distance_bias.copy_(START_DECAY * torch.arange(1 - self.max_len, 1))

    def forward(self, hidden: Tensor, real: Tensor, *, last_only: bool = False) -> Tensor:
        """Map (B, T, H) to (B, T, H), or to (B, 1, H) for the last position alone."""
        normed = self.attention_norm(hidden)
        if last_only:
            hidden, attended = hidden[:, -1:], self._attend_from_last(normed, real)
        else:
            attended = self._attend(normed, real)
        hidden = hidden + self.dropout(self.attention_out(attended))
        inner = F.gelu(self.up(self.feed_forward_norm(hidden)))
        return hidden + self.dropout(self.down(self.dropout(inner)))

    def _attend(self, normed: Tensor, real: Tensor) -> Tensor:
        """Let every position attend to itself and those before it: (B, T, H) to (B, T, H)."""
        keys, values = self._heads(self.key_value(normed)).chunk(2, dim=-1)
        positions = torch.arange(normed.shape[1], device=real.device)
        distance = positions[:, None] - positions[None, :]  # (T, T)
        bias = self.distance_bias[:, (self.max_len - 1 - distance).clamp(max=self.max_len - 1)]
        visible = (distance >= 0) & real[:, None, None, :]
        logits = self._heads(self.query(normed)) * self.head_dim**-0.5 @ keys.mT + bias
        weights = logits.masked_fill(~visible, LOWEST).softmax(dim=-1)  # (B, heads, T, T)
        return (self.dropout(weights) @ values).transpose(1, 2).flatten(2)

    def _attend_from_last(self, normed: Tensor, real: Tensor) -> Tensor:
        """Do the same for the last position alone: (B, T, H) to (B, 1, H).

        q . (K x + b) differs from (K^T q) . x by the same for all x, which softmax ignores, and the
        mean of values is the value of the mean: with one query, no key or value is ever computed.
        """
        # Weights: (heads, D, H) each; query: (B, heads, 1, D).
        key, value = self.key_value.weight.unflatten(0, (self.num_heads, 2, -1)).unbind(1)
        query = self._heads(self.query(normed[:, -1:]))
        probes = (query @ (key * self.head_dim**-0.5)).squeeze(2)  # (B, heads, H)
        bias = self.distance_bias[:, self.max_len - normed.shape[1] :]
        logits = (probes @ normed.mT + bias).masked_fill(~real[:, None], LOWEST)
        means = logits.softmax(dim=-1) @ normed  # (B, heads, H)
        value_bias = self.key_value.bias.unflatten(0, (self.num_heads, 2, -1))[:, 1]  # (heads, D)
        attended = (means[:, :, None] @ value.mT).squeeze(2) + value_bias  # (B, heads, D)
        return attended.flatten(1)[:, None]

    def _heads(self, hidden: Tensor) -> Tensor:
        """Split (B, T, heads * D) into (B, heads, T, D)."""
        return hidden.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class TransformerEncoder(nn.Module):
    """Causal self-attention over items, after SASRec (arXiv:1808.09781)."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(CausalBlock(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_dim)

    def forward(self, embedded: Tensor, real: Tensor, *, last_only: bool = False) -> Tensor:
        """Encode (B, T, H) to (B, T, H), or to (B, 1, H) for the last position alone."""
        hidden = embedded
        for number, block in enumerate(self.blocks, start=1):
            # Of the last block only the newest position's output is needed.
            hidden = block(hidden, real, last_only=last_only and number == len(self.blocks))
        return self.norm(hidden)


ENCODERS = {"gru": GRUEncoder, "transformer": TransformerEncoder}


class Student(nn.Module):
    """Next-item scorer: one item table, an encoder, and a dot product with the same table."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        table = nn.Embedding(config.num_items + 1, config.hidden_dim, padding_idx=PAD)
        nn.init.normal_(table.weight, std=ROW_SCALE)
        with torch.no_grad():
            table.weight[PAD].zero_()
        self.item_embedding: nn.Embedding | FusedItemTable = table
        self.dropout = Dropout(config.dropout)
        self.encoder = ENCODERS[config.arch](config)

    def encode(
        self, items: Tensor, rows: Tensor | None = None, *, last_only: bool = False
    ) -> Tensor:
        """Map left-padded items, int64 (B, T), to user states after each item, (B, T, H).

        Args:
            items: the histories.
            rows: the rows that `items` are numbers of, if they are at hand already: (N, H).
            last_only: leave out the states before the last: (B, 1, H).
        """
        if rows is None:
            embedded = self.item_embedding(items)
        else:  # no gradient reaches row PAD, which stays zero
            embedded = F.embedding(items, rows, padding_idx=PAD)
        return self.encoder(self.dropout(embedded), items != PAD, last_only=last_only)

    def scores(self, states: Tensor) -> Tensor:
        """Score all items for user states (..., H): (..., I + 1); column PAD is no item."""
        return states @ self.item_embedding.weight.T

    def forward(self, items: Tensor) -> Tensor:
        """Score the next item for left-padded histories, int64 (B, T), T <= max_len: (B, I + 1)."""
        return self.scores(self.encode(items, last_only=True)[:, -1])

    @property
    def device(self) -> torch.device:
        """Where the student is."""
        return next(self.parameters()).device

    @property
    def num_parameters(self) -> int:
        """Number of weights, the item table included."""
        return sum(parameter.numel() for parameter in self.parameters())

    def save_pretrained(self, folder: Path, **extra: Any) -> None:
        """Write `config.json` (with `extra` keys) and `model.safetensors` into `folder`.

        Of a text map that is there already, `config.json` has the checksum, too.
        """
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / "model.safetensors")
        shape = dataclasses.asdict(self.config)
        write_json(folder / "config.json", {**shape, **extra, **checksums_of(folder, WEIGHTS)})

    @classmethod
    def from_pretrained(cls, folder: Path) -> "Student":
        """Load a student for inference.

        Raises:
            ModelError: there is none in `folder`, or its files do not fit each other.
        """
        try:
            values = read_json(folder / "config.json")
            names = {field.name for field in dataclasses.fields(StudentConfig)}
            config = StudentConfig(**{k: v for k, v in values.items() if k in names})
            tensors = load_file(folder / "model.safetensors")
            require_checksums(folder, values)
            if config.num_layers > len(tensors):
                raise ValueError(f"{config.num_layers} layers in {len(tensors)} tensors")
            with torch.device("meta"):  # takes no memory, and fails where the shapes differ
                cls(config).load_state_dict(tensors, assign=True)
            student = cls(config)
            student.load_state_dict(tensors)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"no usable student in {folder} ({error}). Train one: python -m student.distill"
            ) from error
        return student.eval()

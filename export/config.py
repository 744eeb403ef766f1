"""The flags of the commands in `export`."""

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Literal

from seqrec.config import DEFAULT_DATA_DIR, flag

DEFAULT_MODEL_DIR = Path("runs/ml-100k/export/transformer-distilled-int8")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Which students to export."""

    data_dir: Path = flag(DEFAULT_DATA_DIR, "prepared data set, from seqrec.prepare")
    output_dir: Path | None = flag(None, "where all stages write; default runs/<name of data-dir>")


@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """Flags of `export.publish`."""

    model_dir: Path = flag(
        DEFAULT_MODEL_DIR, "the new recommender, from export.to_onnx or export.to_index"
    )
    serving_dir: Path = flag(MISSING, "directory that is served; made if there is none")
    data_dir: Path = flag(DEFAULT_DATA_DIR, "prepared data set that the new one was trained on")
    since: Path | None = flag(
        None, "the data set before: users count who have new events; not given: all users"
    )
    min_ndcg: float = flag(0.98, "least NDCG@10 on the test targets, of the serving one's")
    max_latency: float = flag(1.25, "longest p50 of an answer, of the serving one's")
    max_size: float = flag(1.5, "largest size, of the serving one's")

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name in ("min_ndcg", "max_latency", "max_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} is below 0")


@dataclass(frozen=True, kw_only=True)
class NightlyConfig:
    """Flags of `export.nightly`."""

    interactions: Path = flag(MISSING, "the day's log; on the first day the whole log")
    items: Path | None = flag(None, "table of items, whole or what has changed since")
    root: Path = flag(Path("nightly"), "directory of all days and of what is served")
    day: str | None = flag(None, "name of the day, later ones sort later; not given: the date, UTC")
    arch: Literal["gru", "transformer"] = flag("transformer", "what is trained and served")
    anew: bool = flag(False, "train from the language model again instead of the day before")


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """Flags of `export.push_to_hub`."""

    model_dir: Path = flag(DEFAULT_MODEL_DIR, "exported student, from export.to_onnx")
    hub_id: str = flag(MISSING, "where to: user/model; made if there is none")
    private: bool = flag(True, "if it is made: for its owner's eyes only")


@dataclass(frozen=True, kw_only=True)
class AddItemsConfig:
    """Which items go into which recommender."""

    model_dir: Path = flag(MISSING, "exported distilled student, from export.to_onnx")
    items: Path = flag(MISSING, "table of new items; formats as in seqrec.prepare")
    output_dir: Path = flag(MISSING, "directory to write; must not exist yet")
    items_id_column: str = flag("item_id", "column of the items with their id")
    title_column: str = flag("title", "column of the items with their title")
    text_encoder: Path | None = flag(
        None, "directory from export.to_text_encoder; without, the language model reads in PyTorch"
    )


@dataclass(frozen=True, kw_only=True)
class ToTextEncoderConfig:
    """Flags of `export.to_text_encoder`."""

    model_dir: Path = flag(DEFAULT_MODEL_DIR, "exported distilled student, from export.to_onnx")
    output_dir: Path | None = flag(None, "directory to write; default text-encoder beside it")


@dataclass(frozen=True, kw_only=True)
class ToMobileConfig:
    """Flags of `export.to_mobile`."""

    model_dir: Path = flag(DEFAULT_MODEL_DIR, "exported student, from export.to_onnx")
    output_dir: Path | None = flag(
        None, "directory to write; default mobile/<its name> beside export"
    )


@dataclass(frozen=True, kw_only=True)
class ToIndexConfig:
    """Flags of `export.to_index`."""

    model_dir: Path = flag(DEFAULT_MODEL_DIR, "exported int8 student, from export.to_onnx")
    data_dir: Path = flag(
        DEFAULT_DATA_DIR, "prepared data set: its validation users judge the index"
    )
    output_dir: Path | None = flag(
        None, "directory to write; default index/<its name> beside export"
    )
    min_recall: float = flag(0.995, "least fraction of the exact top 10 and top 100 that is found")
    list_size: int | None = flag(
        None, "items of a list, at most; not given: 256, from 4 million items on 1,024"
    )
    vectors_to: Path | None = flag(None, "a .parquet file to write the items' vectors to, too")

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if not 0 < self.min_recall <= 1:
            raise ValueError(f"--min-recall {self.min_recall} is not above 0 and up to 1")
        if self.list_size is not None and self.list_size < 1:
            raise ValueError(f"--list-size {self.list_size} is below 1")
        if self.vectors_to is not None and self.vectors_to.suffix != ".parquet":
            raise ValueError(f"--vectors-to {self.vectors_to} does not end in .parquet")


@dataclass(frozen=True, kw_only=True)
class ToExecutorchConfig:
    """Flags of `export.to_executorch`."""

    model_dir: Path = flag(DEFAULT_MODEL_DIR, "exported student, from export.to_onnx")
    student_dir: Path | None = flag(
        None, "what it was exported from; default students/<its name> beside export"
    )
    output_dir: Path | None = flag(
        None, "directory to write; default executorch/<name of model-dir> beside export"
    )
    k: int | None = flag(
        None, "how many items an answer has; default 10, or all if there are fewer"
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if self.k is not None and self.k < 1:
            raise ValueError("--k: above 0")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Flags of `export.score`."""

    model_dir: Path = flag(
        Path("runs/ml-100k/export/gru-distilled-int8"), "exported student, from export.to_onnx"
    )
    data_dir: Path = flag(
        DEFAULT_DATA_DIR, "prepared data set: all events of its users are their histories"
    )
    histories: Path | None = flag(
        None, "a .parquet file of users and their histories, or a folder of them, instead"
    )
    user_column: str = flag("user_id", "column of the histories with the user")
    history_column: str = flag(
        "history", "column of the histories with the list of item ids, oldest first"
    )
    output_dir: Path = flag(
        Path("recommended"), "directory to write; what is still right in an earlier one is kept"
    )
    k: int = flag(10, "items per user, at most")
    exclude_seen: bool = flag(True, "leave out the items of the history")
    batch_size: int = flag(64, "users in a call of the model")
    users_per_part: int = flag(10_000, "users in an output file; a worker holds so many at once")
    engine: Literal["local", "ray"] = flag("local", "local: processes of this machine; ray: Ray")
    num_workers: int | None = flag(
        None,
        "workers, each with one thread; default: as many as there are cores, here or in the "
        "cluster",
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name in ("k", "batch_size", "users_per_part", "num_workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value} is below 1")


@dataclass(frozen=True, kw_only=True)
class ToWebConfig:
    """Flags of `export.to_web`."""

    model_dir: Path = flag(DEFAULT_MODEL_DIR, "exported student, from export.to_onnx")
    output_dir: Path | None = flag(None, "folder to write; default web beside export")
    data_dir: Path | None = flag(
        None, "prepared data set, for its popular titles; default data/<its name>"
    )
    num_suggested: int = flag(12, "popular titles that are suggested at first; 0: none")
    npm_archive: Path | None = flag(
        None, "what npm pack wrote, for a machine without npm or network"
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if self.num_suggested < 0:
            raise ValueError("--num-suggested: 0 or more")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Flags of `export.serve_web`."""

    site_dir: Path = flag(Path("runs/ml-100k/web"), "folder that export.to_web wrote")
    host: str = flag("127.0.0.1", "address to listen on; 0.0.0.0 lets other devices in")
    port: int = flag(8000, "port to listen on; 0: any that is free")

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if not 0 <= self.port < 2**16:
            raise ValueError("--port: 0 to 65535")

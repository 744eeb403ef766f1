"""Which files make a table.

A table is a file or a folder of parts, also of parts in subfolders. Paths are taken literally. What
a folder holds beside its parts is refused, not passed over, unless its name says that it is hidden.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from seqrec.errors import DataError

logger = logging.getLogger(__name__)

EXTENSIONS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
PACKED = (".gz", ".zst", ".bz2", ".xz")
# Inside a folder that is more than its files: these say which of them count.
TABLE_FORMATS = {
    "_delta_log": "Delta",
    "metadata/*.metadata.json": "Iceberg",
    "metadata/version-hint.text": "Iceberg",
    ".hoodie": "Hudi",
}


def kind_of(path: Path) -> str:
    """Return what a file's name says that it holds, one of `EXTENSIONS`, or ""."""
    name = path.name.lower()
    packing = next((ending for ending in PACKED if name.endswith(ending)), "")
    kind = Path(name.removesuffix(packing)).suffix
    return kind if kind in EXTENSIONS and not (packing and kind == ".parquet") else ""


def table_files(path: Path, kinds: Sequence[str] = EXTENSIONS) -> list[Path]:
    """Return the files of a table: the path itself, or all below a folder, in order of their names.

    Raises:
        DataError: there is none, one is of another kind than the others or empty, or the folder is
            a table of another format.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the path {path!r} is not UTF-8. Rename it") from error
    expected = ", ".join(kinds)
    if not path.exists():
        raise DataError(f"{path} does not exist. Check the path")
    if path.is_dir():
        _refuse_table_format(path, *path.resolve().parents)  # it may be a part of such a table
        parts = sorted(_files_below(path, set()), key=lambda part: part.relative_to(path).parts)
        if strange := [part for part in parts if kind_of(part) not in kinds]:
            raise DataError(
                f"{strange[0]} would be left out: it is none of {expected} "
                f"({len(strange):,} such file(s) in {path}). Unpack, convert or move it"
            )
        if not parts:
            raise DataError(f"{path} is a folder without any {expected} file in it")
    else:
        parts = [path]
        if kind_of(path) not in kinds:
            raise DataError(
                f"{path} has the unknown extension {path.suffix!r}. Expected {expected}"
            )
    used = {kind_of(part) for part in parts}
    if len(used) > 1:
        raise DataError(f"{path} mixes {' and '.join(sorted(used))} files. Keep one kind")
    for part in parts:
        if not part.is_file():
            raise DataError(f"{part} is no file. Write the table into one")
        if part.stat().st_size == 0:
            raise DataError(f"{part} is empty (0 bytes). Export it again")
    return parts


def _files_below(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders; links are followed, each folder once."""
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read ({error.strerror}). Grant access to it"
        ) from error
    for entry in entries:
        # What begins with these is hidden to Spark as well: checksums, unfinished parts.
        if entry.name[0] in "._":
            if kind_of(entry) and not entry.name.startswith("._"):  # macOS writes the latter
                logger.info("%s is not read: its name begins as hidden files' do", entry)
        elif entry.is_dir():
            _refuse_table_format(entry)
            yield from _files_below(entry, seen)
        else:
            yield entry


def _refuse_table_format(*folders: Path) -> None:
    """Refuse folders that hold files which were removed from the table."""
    for above in folders:
        for pattern, name in TABLE_FORMATS.items():
            if next(above.glob(pattern), None) is not None:
                raise DataError(
                    f"{above} is a table of {name} (see {pattern}), whose folder holds files that "
                    "were removed from it too. Write its rows into plain Parquet and give that: "
                    f'spark.read.format("{name.lower()}").load("{above}").write.parquet("plain")'
                )


def columns_in_path(part: Path, root: Path) -> dict[str, str | None]:
    """Return the columns that Hive and Spark write as folders, `day=2025-01-01`, with their value.

    Args:
        part: a file of the table.
        root: the table, a folder or `part` itself.
    """
    folders = part.relative_to(root).parts[:-1]
    pairs = [map(unquote, folder.split("=", 1)) for folder in folders if "=" in folder]
    missing = "__HIVE_DEFAULT_PARTITION__"
    return {name: None if value == missing else value for name, value in pairs}

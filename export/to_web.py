"""A recommender as a static web page. Entry point: `python -m export.to_web`.

    python -m export.to_web --model-dir runs/ml-100k/export/transformer-distilled-int8

The page runs the very `model.onnx` of the export in the visitor's browser, with onnxruntime-web.
It is a folder for any web server, and fetches nothing from elsewhere:

    index.html, style.css, *.js    the page, as in `export/web`, and the client of `export/npm`;
                                   service-worker.js and manifest.json have it work without a
                                   network once it was loaded
    model/          config.json, items.json, model.onnx and model card of the export
    onnxruntime/    ort.js, ort-wasm-simd-threaded.wasm.gz: the runtime, from npm; its licences
    site.json       schema, popular (item numbers, first the most frequent), num_suggested, sizes
                    in bytes, version and checksum of the runtime, all files, and a checksum of
                    them that names the build

The page unpacks the .gz itself, so that the first visit takes a quarter of the bytes whatever the
server does, and verifies all it runs: the model against its config.json, the runtime against
site.json.
"""

import gzip
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqrec.config import parse_flags
from seqrec.errors import DataError, ModelError, run_main
from seqrec.fetch import Archive, fetch_npm_package
from seqrec.files import atomic_directory, require_replaceable, says, sha256_file, write_json

import numpy as np

from export.config import ToWebConfig
from export.opening import DATA
from export.recommender import Recommender

logger = logging.getLogger(__name__)

SCHEMA = "seqrec-site/1"
PAGE = Path(__file__).parent / "web"
CLIENT = [Path(__file__).parent / "npm" / name for name in ("client.js", "sha256.js")]
NUM_POPULAR = 1000  # they come first among titles that match a search equally well
MODEL_FILES = ("config.json", "items.json", "model.onnx")
ONNXRUNTIME_WEB_VERSION = "1.30.0"
SCRIPT = "package/dist/ort.wasm.bundle.min.mjs"
WASM = "package/dist/ort-wasm-simd-threaded.wasm"
ONNXRUNTIME_WEB = Archive(
    f"npm:onnxruntime-web@{ONNXRUNTIME_WEB_VERSION}",
    "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71",
    (SCRIPT, WASM),
)


def to_web(config: ToWebConfig) -> Path:
    """Write the page, whole or not at all, and return its folder.

    Raises:
        ModelError: there is no recommender in `model_dir`, it is damaged, or a large index.
        DataError: the folder holds something else, or the data set is another one.
        SourceError: onnxruntime-web cannot be had.
    """
    recommender = Recommender.from_pretrained(config.model_dir)
    if DATA in recommender.config["sha256"]:
        raise ModelError(
            f"{config.model_dir} has an index so large that its tables are in {DATA}, which a page "
            "does not load. Give the export that it was made of: --model-dir"
        )
    folder = config.output_dir or config.model_dir.resolve().parent.parent / "web"
    is_page = says(folder / "site.json", "schema", "seqrec-site/")
    require_replaceable(folder, "page from export.to_web", ours=is_page)
    popular = _popular_items(config, recommender.config)
    runtime = fetch_npm_package(ONNXRUNTIME_WEB, config.npm_archive)
    with atomic_directory(folder) as beside:
        shutil.copytree(PAGE, beside, dirs_exist_ok=True)
        for file in CLIENT:
            shutil.copy(file, beside)
        (beside / "model").mkdir()
        for name in MODEL_FILES:
            shutil.copy(config.model_dir / name, beside / "model" / name)
        card = (config.model_dir / "README.md").read_text(encoding="utf-8")
        card = re.sub(r"\A---\n.*?\n---\n\s*", "", card, flags=re.DOTALL)  # metadata for hubs
        # As .txt, since browsers show that and would save the other.
        (beside / "model/README.txt").write_text(card, encoding="utf-8")
        _copy_runtime(runtime, beside / "onnxruntime")
        files = (file for file in beside.rglob("*") if file.is_file())
        sums = {file.relative_to(beside).as_posix(): sha256_file(file) for file in files}
        loaded = ("model/items.json", "model/model.onnx", f"onnxruntime/{Path(WASM).name}.gz")
        site: dict[str, Any] = {
            "schema": SCHEMA,
            "popular": popular,
            "num_suggested": config.num_suggested,
            "sizes": {name: (beside / name).stat().st_size for name in loaded},
            "runtime": {
                "version": ONNXRUNTIME_WEB_VERSION,
                "sha256": {Path(WASM).name: sha256_file(runtime / WASM)},
            },
            "files": ["./", "site.json", *sorted(sums)],
        }
        # Of all files and of what site.json says: another checksum is another build.
        all_of_it = json.dumps([sums, site], sort_keys=True)
        site["build"] = hashlib.sha256(all_of_it.encode()).hexdigest()
        write_json(beside / "site.json", site)
    size_mib = sum(site["sizes"].values()) / 2**20
    logger.info("wrote %s; a first visit loads %.1f MiB", folder, size_mib)
    logger.info("look at it: python -m export.serve_web --site-dir %s", folder)
    return folder


def _popular_items(config: ToWebConfig, exported: dict[str, Any]) -> list[int]:
    """Return the item numbers most frequent in training, ties by the lower number.

    Empty where there is no data set of the export's name, and none was named.

    Raises:
        DataError: the data set that was named is not there, or is not the student's.
    """
    data_dir = config.data_dir or Path("data") / str(exported["dataset"])
    if config.data_dir is None and not data_dir.exists():
        logger.info("%s is not there, so no title is suggested. Name it: --data-dir", data_dir)
        return []
    from seqrec.data import load_dataset  # loads Polars

    dataset = load_dataset(data_dir)
    if dataset.fingerprint != exported["dataset_fingerprint"]:
        raise DataError(
            f"{data_dir} is data set {dataset.fingerprint}, but {config.model_dir} was made from "
            f"{exported['dataset_fingerprint']}. Name that one: --data-dir"
        )
    counts = dataset.train_counts()[1:]
    most = np.argsort(-counts, kind="stable")[:NUM_POPULAR] + 1
    return [int(number) for number in most]


def _copy_runtime(package: Path, folder: Path) -> None:
    """Put onnxruntime-web beside the page: its script as .js, its WebAssembly compressed."""
    folder.mkdir()
    shutil.copy(package / SCRIPT, folder / "ort.js")  # not every server knows .mjs
    packed = gzip.compress((package / WASM).read_bytes(), compresslevel=9, mtime=0)
    (folder / f"{Path(WASM).name}.gz").write_bytes(packed)
    import onnxruntime

    for name in ("LICENSE", "ThirdPartyNotices.txt"):  # npm's package has none; Python's does
        shutil.copy(Path(onnxruntime.__file__).parent / name, folder / f"{Path(name).stem}.txt")


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page that the command line asks for."""
    to_web(parse_flags(ToWebConfig, (__doc__ or "").partition("\n")[0], argv))


if __name__ == "__main__":
    run_main(main)

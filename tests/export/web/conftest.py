"""The page with an exported Transformer of random weights and the real runtime."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset, write_dataset

import polars as pl
import pytest

import export.to_web
from export.config import ToWebConfig
from export.onnx_graph.exporting import Precision
from export.recommender import Recommender
from export.to_web import to_web
from tests.export.answers import export_random
from tests.export.web.browsing import HOSTILE, MAX_LEN, SCREENS, Serving

Folders = dict[Precision, Path]


@pytest.fixture(scope="package")
def hostile_dataset(
    tiny_dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory
) -> SequenceDataset:
    """The thirty books, two of them with titles that are HTML."""
    titles = [HOSTILE.get(n, title) for n, title in enumerate(tiny_dataset.items["title"], 1)]
    return write_dataset(
        tmp_path_factory.mktemp("data") / "shelf",
        name="shelf",
        items=tiny_dataset.items.with_columns(title=pl.Series(titles)),
        user_ids=pl.read_parquet(tiny_dataset.path / "user_ids.parquet")["user_id"],
        events=tiny_dataset.events,
        offsets=tiny_dataset.offsets,
        split=tiny_dataset.split,
        split_name="leave-one-out",
        provenance={},
    )


@pytest.fixture(scope="package")
def models(hostile_dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """An exported Transformer, in fp32 and in int8."""
    run, shape = tmp_path_factory.mktemp("run"), {"hidden_dim": 32, "max_len": MAX_LEN}
    return {
        precision: export_random(run, hostile_dataset, "transformer", precision, **shape)
        for precision in ("fp32", "int8")
    }


@pytest.fixture(scope="package")
def sites(
    models: Folders,
    hostile_dataset: SequenceDataset,
    onnxruntime_web: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Folders:
    """The page with each model."""
    folder, data = tmp_path_factory.mktemp("sites"), hostile_dataset.path
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.to_web, "fetch_npm_package", lambda *given: onnxruntime_web)
        return {
            precision: to_web(
                ToWebConfig(model_dir=model, data_dir=data, output_dir=folder / precision)
            )
            for precision, model in models.items()
        }


@pytest.fixture
def serving(browser: Any) -> Iterator[Serving]:
    opened = Serving(browser)
    yield opened
    opened.close()


@pytest.fixture(params=SCREENS)
def page(request: pytest.FixtureRequest, serving: Serving, sites: Folders) -> Any:
    """The page with the fp32 model, ready, on either screen."""
    return serving.open(sites["fp32"], **SCREENS[request.param])


@pytest.fixture(scope="package")
def recommender(models: Folders) -> Recommender:
    """What the page of the fp32 model is to answer."""
    return Recommender.from_pretrained(models["fp32"])

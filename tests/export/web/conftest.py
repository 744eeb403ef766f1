"""The page with an exported Transformer of random weights and the real runtime."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqrec.data import SequenceDataset

import pytest

import export.to_web
from export.config import ToIndexConfig, ToWebConfig
from export.index.building import to_index
from export.onnx_graph.exporting import PRECISIONS
from export.recommender import Recommender
from export.to_web import to_web
from tests.export.answers import MAX_LEN, export_random, rename_items
from tests.export.web.browsing import HOSTILE, SCREENS, Folders, Serving


@pytest.fixture(scope="package")
def models(tiny_dataset: SequenceDataset, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """An exported Transformer, in fp32 and in int8, and an index; two of its titles are HTML."""
    run, found = tmp_path_factory.mktemp("run"), Folders()
    titles = [HOSTILE.get(n, title) for n, title in enumerate(tiny_dataset.items["title"], 1)]
    for precision in PRECISIONS:
        shape = {"hidden_dim": 32, "max_len": MAX_LEN}
        found[precision] = export_random(run, tiny_dataset, "transformer", precision, **shape)
        rename_items(found[precision], titles=titles)
    flags = {"data_dir": tiny_dataset.path, "list_size": 4, "min_recall": 1.0}
    to_index(ToIndexConfig(model_dir=found["int8"], output_dir=run / "index", **flags))
    return Folders(**found, index=run / "index")


@pytest.fixture(scope="package")
def sites(
    models: Folders,
    tiny_dataset: SequenceDataset,
    onnxruntime_web: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Folders:
    """The page with each model."""
    folder, data = tmp_path_factory.mktemp("sites"), tiny_dataset.path
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

"""Folders in which tables are written and prepared."""

from pathlib import Path

import pytest

from tests.seqrec.table_folder import Tables
from tests.seqrec.workbench import Workbench


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)

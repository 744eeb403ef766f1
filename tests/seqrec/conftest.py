"""A folder in which tables are written and prepared."""

from pathlib import Path

import pytest

from tests.seqrec.table_folder import Tables


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)

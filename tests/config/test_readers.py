"""The rows of the readers and of the data sets."""

from importlib import import_module

import pytest

from hpm_video.config.data_sets import DATA_SETS
from hpm_video.config.readers import FALLBACK, READERS, list_auto


def test_the_order_of_the_readers() -> None:
    assert list(READERS) == ["pyav", "torchcodec", "decord"] and FALLBACK == "pyav"
    assert list_auto() == ["pyav", "torchcodec"]


@pytest.mark.parametrize("table", [READERS, DATA_SETS])
def test_each_row_names_a_module(table) -> None:
    assert all(import_module(row.implementation).__name__ == row.implementation for row in table.values())

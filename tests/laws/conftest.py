import pytest

from tests.laws.variants import VARIANTS
from throughtime.cells import Cell


@pytest.fixture(params=VARIANTS, ids=str)
def cell(request: pytest.FixtureRequest) -> Cell:
    """Each known cell, with each of its options, in float64."""
    return request.param.make()

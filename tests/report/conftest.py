"""Tables of a run that was never made, for figures and report."""

import pandas as pd
import pytest
import synthetic


@pytest.fixture(scope="module")
def demo() -> dict[str, pd.DataFrame]:
    return synthetic.tables()


@pytest.fixture(scope="module")
def nothing() -> dict[str, pd.DataFrame]:
    """Without a universal neuron."""
    return synthetic.tables(universal=False)

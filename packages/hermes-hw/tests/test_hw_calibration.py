import importlib.util
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1]
SHARED = PACKAGE.parents[1].parent / "shared"


@pytest.fixture(scope="module")
def tpot():
    spec = importlib.util.spec_from_file_location("hermes_hw_calibration_tpot", PACKAGE / "calibration" / "tpot.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.shared
def test_the_shipped_constants_predict_measured_tpot(tpot):
    if not (SHARED / "groundtruth").is_dir():
        pytest.skip("the published measurements are not beside the repository")
    rows = tpot.errors(tpot.read_cases(SHARED / "groundtruth"), {})
    errors = [abs(predicted / measured - 1) for _, predicted, measured in rows]
    assert len(rows) >= 25
    assert sum(errors) / len(errors) < 0.04
    assert max(errors) < 0.15

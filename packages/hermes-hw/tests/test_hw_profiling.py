import dataclasses
import importlib.util
import time

import numpy as np
import pytest
from hermes_core.api import Deployment, InputError, MissingExtraError
from hermes_hw.profiling import ProfilePlan, profile
from hermes_hw.profiling.backends import NumpyBackend, TorchBackend, run_seconds
from hermes_hw.tables import MeasuredModel, write_tables
from hermes_hw.testing import check_step_model

SMALL = ProfilePlan(
    widths=(64, 256),
    rows=(1, 8),
    batches=(1, 4),
    contexts=(16, 64),
    heads=((4, 2),),
    head_dim=32,
    vocab=1000,
)


@pytest.fixture(scope="module")
def measured():
    said = []
    tables, meta = profile(NumpyBackend(), "here", SMALL, said.append)
    assert said
    return tables, meta


def test_a_profile_of_this_machine_makes_a_usable_device(measured, tmp_path):
    tables, meta = measured
    write_tables(tmp_path / "t", tables, meta)
    deployment = Deployment(
        model="llama-3.2-1b",
        device="here",
        device_spec=None,
        options={"tables": str(tmp_path / "t")},
        max_seqs=8,
        max_batched_tokens=256,
    )
    # The smallest machine that runs this need not hold the model.
    spec = {key: value for key, value in meta["device"].items() if key != "name"} | {"memory_bytes": 64 << 30}
    compiled = MeasuredModel().compile(dataclasses.replace(deployment, device_spec=spec))
    check_step_model(compiled.steps, max_seqs=8, max_context=2000, points=20)
    assert compiled.source_share.get("analytical", 0) < 0.5


def test_what_is_measured_is_plausible(measured):
    tables, meta = measured
    kinds = {rows.kind for rows in tables}
    assert {"gemm", "attention.prefill", "attention.decode", "norm", "elementwise", "embedding", "sample"} == kinds
    gemm = next(rows for rows in tables if rows.kind == "gemm")
    assert len(gemm) == 8
    assert (gemm.seconds > 0).all()
    assert meta["device"]["flops"]["fp32"] >= float(
        (2.0 * gemm.columns["m"] * gemm.columns["n"] * gemm.columns["k"] / gemm.seconds).max()
    ) * (1 - 1e-9)
    assert meta["device"]["memory_bandwidth_bytes_per_s"] > 1e8


def test_numpy_computes_what_it_should():
    backend = NumpyBackend()
    x = backend.array(4, 8)
    assert backend.softmax(x).sum(axis=-1) == pytest.approx(np.ones(4), rel=1e-5)
    assert (backend.norm(x) ** 2).mean(axis=-1) == pytest.approx(np.ones(4), rel=1e-3)
    assert backend.matmul(x, backend.transposed(x)).shape == (4, 4)
    assert backend.gather(x, 3).shape == (3, 8)


def test_torch_is_an_extra():
    if importlib.util.find_spec("torch") is None:
        with pytest.raises(MissingExtraError, match=r"hermes-hw\[profile\]"):
            TorchBackend("cpu")
        return
    with pytest.raises(InputError, match="no device"):
        TorchBackend("cuda:99")


def test_work_that_takes_long_is_run_twice_and_short_work_often():
    class Slow(NumpyBackend):
        runs = 0

        def wait(self):
            self.runs += 1

    long, short = Slow(), Slow()
    run_seconds(long, lambda: time.sleep(0.2))
    run_seconds(short, lambda: None)
    # The first of all runs is dropped.
    assert long.runs == 3
    assert short.runs > 7


def test_numpy_runs_on_no_accelerator(tmp_path):
    typer_testing = pytest.importorskip("typer.testing", reason="the extra cli is not installed")
    from hermes_hw.cli import app  # noqa: PLC0415 - needs the extra

    result = typer_testing.CliRunner().invoke(app, ["profile", str(tmp_path / "t"), "--device", "cuda"])
    assert isinstance(result.exception, InputError)
    assert "--backend torch" in str(result.exception)
    assert not (tmp_path / "t").exists()

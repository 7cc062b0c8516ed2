"""Calibrations: what the regression finds, the file, and the hardware model that reads it."""

import json

import numpy as np
import pytest
from hermes_core.api import Deployment, InputError, StepShape
from hermes_hw.fitted import FittedModel, fit_efficiency, read_calibration
from hermes_hw.fitted.regression import BOUNDS, bounded_least_squares
from hermes_hw.roofline import RooflineModel
from hermes_hw.testing import check_step_model

SERVED = {"model": "llama-3.1-8b", "device": "h100-sxm", "graph_sizes": (1, 2, 4, 8, 16, 32, 64, 128)}
HIDDEN = {"step_s": 0.003, "seq_s": 2e-5}


def observed(batches, contexts=(700.0,), run="a", factor=1.0, prompts=0.0):
    """Steps of an engine with hidden constants."""
    steps = RooflineModel().compile(Deployment(**SERVED, options={"efficiency": HIDDEN})).steps
    return [
        {
            "run": run,
            "seqs": float(seqs),
            "context": context,
            "prompts": prompts,
            "new_tokens": 100.0 if prompts else 0.0,
            "cached_tokens": 0.0,
            "seconds": factor * steps.decode_run(seqs, round(seqs * context), 0, seqs)[0] * 1e-15,
        }
        for seqs in batches
        for context in contexts
    ]


def calibrated(tmp_path, **changes):
    document = fit_efficiency(SERVED, observed((1, 4, 8, 16, 32, 64), (300.0, 1500.0))) | changes
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(document))
    return path


def test_the_fit_finds_the_steps_of_an_engine_that_it_does_not_know():
    seen = observed((1, 4, 8, 16, 32, 64), (300.0, 1500.0)) + observed((2, 24, 48), run="b")
    document = fit_efficiency(SERVED, seen)
    assert document["error"]["shipped_mean_percent"] > 15
    assert document["error"]["mean_percent"] < 1
    assert document["error"]["left_out_mean_percent"] < 2
    assert document["error"]["left_out_percent_of_run"].keys() == {item["run"] for item in document["residuals"]}
    assert document["efficiency"]["step_s"] > 1.5 * document["shipped"]["step_s"]
    assert len(document["residuals"]) == len(seen)
    assert document["card"]["source"] == ["a", "b"]


def test_no_constant_leaves_its_bounds_however_fast_the_observations():
    document = fit_efficiency(SERVED, observed((1, 8, 16, 32, 64, 128), factor=0.2))
    for name, value in document["efficiency"].items():
        low, high = document["bounds"][name]
        assert low * 0.999 <= value <= high * 1.001
    assert document["at_bound"]
    assert document["error"]["mean_percent"] > 50


def test_few_observations_move_few_constants():
    document = fit_efficiency(SERVED, observed((8, 32)))
    assert list(document["efficiency"]) == ["step_s"]


def test_an_outlier_does_not_bend_the_fit():
    seen = observed((1, 4, 8, 16, 32, 64, 96, 128))
    seen[3]["seconds"] *= 3
    document = fit_efficiency(SERVED, seen)
    errors = sorted(abs(item["error_percent"]) for item in document["residuals"])
    assert errors[-2] < 3
    assert errors[-1] > 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": 0.0}, "positive"),
        ({"seqs": float("nan")}, "positive"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_unsound_observations_are_named(change, message):
    seen = observed((8, 32))
    seen[1] |= change
    with pytest.raises(InputError, match=f"observation 1.*{message}"):
        fit_efficiency(SERVED, seen)


def test_one_observation_is_too_few():
    with pytest.raises(InputError, match="cannot be fitted"):
        fit_efficiency(SERVED, observed((8,)))


def test_least_squares_stays_within_bounds_and_finds_the_free_minimum():
    def residuals(point):
        return np.array([point[0] - 3.0, 2.0 * (point[1] + 1.0), 0.1 * (point[0] - point[1])])

    found = bounded_least_squares(residuals, np.zeros(2), np.array([-1.0, -0.5]), np.array([2.0, 5.0]))
    assert found == pytest.approx([2.0, -0.5])
    free = bounded_least_squares(residuals, np.zeros(2), np.full(2, -9.0), np.full(2, 9.0))
    assert residuals(free) @ residuals(free) < residuals(found) @ residuals(found)


def test_the_model_prices_by_the_file_and_says_where_it_was_observed(tmp_path):
    path = calibrated(tmp_path)
    deployment = Deployment(**SERVED, options={"calibration": str(path)})
    compiled = FittedModel().compile(deployment)
    check_step_model(compiled.steps, points=20)
    truth = RooflineModel().compile(Deployment(**SERVED, options={"efficiency": HIDDEN})).steps
    ours, theirs = (steps.decode_run(20, 20_000, 0, 20)[0] for steps in (compiled.steps, truth))
    assert ours / theirs == pytest.approx(1.0, abs=0.02)
    assert compiled.source_share["interpolated"] > 0
    assert "fitted to observations of meta-llama/Llama-3.1-8B" in " ".join(compiled.notes).replace("Constants ", "")
    other = FittedModel().compile(Deployment(**SERVED | {"model": "llama-3.2-3b"}, options=deployment.options))
    assert other.source_share.get("interpolated", 0) == 0
    assert any("another model" in note for note in other.notes)
    assert compiled.fingerprint != RooflineModel().compile(Deployment(**SERVED)).fingerprint


def test_options_of_the_scenario_win_over_the_file(tmp_path):
    options = {"calibration": str(calibrated(tmp_path)), "efficiency": {"step_s": 0.1}}
    steps = FittedModel().compile(Deployment(**SERVED, options=options)).steps
    assert steps.decode_run(1, 100, 0, 1)[0] * 1e-15 > 0.1


def test_a_calibration_of_another_device_is_refused(tmp_path):
    path = calibrated(tmp_path)
    with pytest.raises(InputError, match="fitted on h100-sxm, not on a100"):
        FittedModel().compile(Deployment(model="llama-3.1-8b", device="a100-sxm-80gb", options={"calibration": path}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "schema is 'list'"),
        ('{"schema": "other/1"}', "schema is 'other/1'"),
        ('{"schema": "hermes.calibration/1"}', "deployment must be an object"),
    ],
)
def test_a_file_that_is_no_calibration_is_named(tmp_path, content, message):
    path = tmp_path / "wrong.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_calibration(path)


def test_figures_of_a_file_are_checked(tmp_path):
    path = calibrated(tmp_path, efficiency={"step_s": "fast"})
    with pytest.raises(InputError, match="step_s must be a number, found 'fast'"):
        read_calibration(path)
    path = calibrated(tmp_path, efficiency={"memory": 2.0})
    with pytest.raises(InputError, match="share of the peak"):
        FittedModel().compile(Deployment(**SERVED, options={"calibration": str(path)}))


def test_without_a_file_the_remedy_is_told():
    with pytest.raises(InputError, match="needs a calibration"):
        FittedModel().compile(Deployment(**SERVED))
    with pytest.raises(InputError, match="there is no calibration file"):
        FittedModel().compile(Deployment(**SERVED, options={"calibration": "nowhere.json"}))


def test_bounds_are_physical():
    for name, (low, high) in BOUNDS.items():
        assert 0 < low < high
        assert high <= 1
        assert name.endswith("_s") == (high < 0.1)


@pytest.mark.parametrize("model", ["llama-3.1-8b", "gemma-3-12b"])
def test_steps_that_the_shipped_constants_made_need_no_fit(model):
    """Between whole numbers of sequences, with prompts of which a part is cached, and with windows: nothing is off."""
    served = {**SERVED, "model": model}
    steps = RooflineModel().compile(Deployment(**served)).steps
    context, new, cached, share = 3000, 300, 500, 0.25

    def shape(seqs):
        windowed = seqs * min(context, steps.window or context)
        return StepShape(decode_seqs=seqs, decode_context=seqs * context, decode_windowed=windowed, sampled_seqs=seqs)

    def seconds(shape):
        return steps.step(shape)[0] * 1e-15

    common = {"run": "a", "context": float(context)}
    plain = {"prompts": 0.0, "new_tokens": 0.0, "cached_tokens": 0.0}
    seen = [
        common
        | plain
        | {"seqs": low + part, "seconds": (1 - part) * seconds(shape(low)) + part * seconds(shape(low + 1))}
        for low, part in ((3, 0.0), (4, 0.5), (16, 0.25), (40, 0.75))
    ]
    mixed = shape(8)
    mixed.prefill_seqs, mixed.prefill_tokens, mixed.prefill_context = 1, new, cached + new
    # Twice the pairs of query and key: query i of 300 sees 500 + i.
    mixed.prefill_pairs2 = mixed.prefill_windowed_pairs2 = 2 * sum(cached + i for i in range(1, new + 1))
    mixed.sampled_seqs = 9
    longer = (1 - share) * seconds(shape(8)) + share * seconds(mixed)
    prompts = {"prompts": share, "new_tokens": float(new), "cached_tokens": float(cached)}
    seen.append(common | prompts | {"seqs": 8.0, "seconds": longer})
    error = fit_efficiency(served, seen)["error"]
    assert error["shipped_mean_percent"] < 1e-6
    assert error["worst_percent"] < 0.1


def test_a_plan_other_than_the_fitted_one_is_extrapolated(tmp_path):
    path = calibrated(tmp_path)
    options = {"calibration": str(path)}
    same = FittedModel().compile(Deployment(**SERVED, options=options))
    other = FittedModel().compile(Deployment(**SERVED, tensor_parallel=2, options=options))
    assert not any("extrapolated" in note for note in same.notes)
    assert any("another model or plan" in note for note in other.notes)

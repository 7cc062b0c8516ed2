"""All that is wrong with a scenario is told at once, what only catalogues know included."""

import pytest
from hermes_core.api.errors import InputError

WRONG = """\
model: meta-llama/Llama-3.1-8C
hardware: h100-sxn
engine: vlm
routing: least_token
workload: {rate: 5/s, prompt: 100, output: 10, request: 50}
"""
NAMES = {
    "unknown model 'meta-llama/Llama-3.1-8C'": "Nearest: meta-llama/Llama-3.1-8B",
    "unknown device 'h100-sxn'": "Nearest: h100-sxm",
    "there is no engine preset 'vlm'": "Did you mean 'vllm'?",
    "there is no router 'least_token'": "did you mean 'least_tokens'?",
    "unknown key 'request'": "did you mean 'requests'?",
}


def told(text: str) -> list[InputError]:
    from hermes_core.config.loading import load_scenario  # noqa: PLC0415 - needs the extra

    with pytest.raises(InputError) as caught:
        load_scenario(text=text)
    return list(getattr(caught.value, "errors", [caught.value]))


@pytest.fixture(autouse=True)
def packages():
    pytest.importorskip("hermes_hw", reason="knows devices and models")


def test_every_wrong_name_is_told_at_once_with_the_nearest():
    found = told(WRONG)
    assert [error.place.line for error in found] == [1, 2, 3, 4, 5]
    assert {error.problem: remedy for error, remedy in zip(found, NAMES.values(), strict=True)} == NAMES
    for error, remedy in zip(found, NAMES.values(), strict=True):
        assert error.remedy.startswith(remedy)


@pytest.mark.parametrize(("right", "wrong"), [(("request:", "requests:"), 4), (("vlm", "vllm"), 4)])
def test_what_is_mended_is_no_longer_told(right, wrong):
    assert len(told(WRONG.replace(*right))) == wrong


def test_models_of_pools_are_told_where_they_stand():
    text = """\
hardware: h100-sxm
models: {big: {ref: meta-llama/Llama-3.1-700B}}
pools:
  a: {stages: [prefill], model: big}
  b: {stages: [decode], model: qwen-nothing}
routing: {c: round_robin}
workload: {rate: 5/s, requests: 9, prompt: 100, output: 10}
"""
    assert [(error.place.path, error.problem.split(" ")[1]) for error in told(text)] == [
        ("models.big", "model"),
        ("pools.b.model", "model"),
        ("routing.c", "is"),
    ]


OPTIONS = """\
model: meta-llama/Llama-3.1-8B
workload: {rate: 8/s, prompt: 256, output: 16, requests: 20}
pools:
  first:
    stages: [prefill]
    hardware: {device: h100-sxm, options: {top_p: true}}
  second:
    stages: [decode]
    hardware:
      device: h100-sxm
      KEY: VALUE
"""


@pytest.mark.parametrize(
    ("key", "value", "path", "problem"),
    [
        ("options", "{unknwon: 3}", "options.unknwon", "unknown option of the hardware model"),
        ("options", "{top_p: 7}", "options.top_p", "must be true or false, found 7"),
        ("options", "{tables: nowhere}", "options.tables", "no tables at nowhere"),
        ("options", "{efficiency: {step_s: -3}}", "options.efficiency.step_s", "must be a time in seconds"),
        ("options", "{efficiency: {nope: 3}}", "options.efficiency.nope", "unknown efficiency constant"),
        ("options", "{part: tail}", "options.part", "part 'tail' of meta-llama/Llama-3.1-8B is unknown"),
        ("options", "{longest_context: [2]}", "options.longest_context", "is of no use without tables"),
        ("kind", "measured", "kind", "the hardware model measured needs tables"),
        ("kind", "fitted", "kind", "the hardware model fitted needs a calibration"),
    ],
)
def test_options_of_hardware_are_told_at_their_line(key, value, path, problem):
    import hermes_core as hermes  # noqa: PLC0415 - needs the extra

    with pytest.raises(InputError) as caught:
        hermes.run(OPTIONS.replace("KEY", key).replace("VALUE", value))
    error = caught.value
    assert error.place.path == f"hardware.{path}"
    assert error.place.file.startswith("scenario:11:")
    assert error.problem.startswith(problem)


def test_what_a_scenario_says_of_a_device_is_told_where_it_says_it():
    text = WRONG.replace("h100-sxn", "h100-sxm") + "devices: {h100-sxm: {interconnect: {kind: warp}}}\n"
    found = [error for error in told(text) if "interconnect" in error.problem]
    assert [(error.place.path, error.place.line) for error in found] == [("devices.h100-sxm.interconnect", 6)]

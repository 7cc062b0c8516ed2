"""YAML with places, layered files, and values set on the command line."""

import json
from pathlib import Path

import pytest
from hermes_core.api import InputError
from hermes_core.config.document import dotted, from_mapping, nearest, read_file, read_text
from hermes_core.config.layers import apply_set, load_layers, with_bases
from hypothesis import given, settings
from hypothesis import strategies as st


def read(text):
    return read_text(text, source="s.yaml", base=Path())


def refused(call, *args):
    with pytest.raises(InputError) as caught:
        call(*args)
    return caught.value


def test_every_key_and_value_has_line_and_column():
    document = read("a: 1\nb:\n  - x: {y: 2}\n")
    assert document.data == {"a": 1, "b": [{"x": {"y": 2}}]}
    assert (document.marks["a",].key, document.marks["a",].value) == ((1, 1), (1, 4))
    assert (document.marks["b", 0, "x", "y"].key, document.marks["b", 0, "x", "y"].value) == ((3, 9), (3, 12))
    assert str(document.place(("b", 0, "x", "y"))) == "s.yaml:3:12 (b[0].x.y)"


def test_yaml_means_what_version_1_2_says():
    assert read("a: on\nb: 1e3\nc: 1:30\nd: true\ne:\nf: 010\n").data == {
        "a": "on",
        "b": 1000.0,
        "c": "1:30",
        "d": True,
        "e": None,
        "f": 10,
    }


def test_aliases_and_merges_keep_a_place():
    document = read("base: &b {p: 1}\nuse:\n  <<: *b\n  q: 2\n")
    assert document.data["use"] == {"q": 2, "p": 1}
    assert document.mark(("use", "p")).source == "s.yaml"


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("a: 1\na: 2\n", "s.yaml:2:1", "the key 'a' stands twice in the section that begins at line 1"),
        ("x: {b: 1, b: 2}\n", "s.yaml:1:11", "the key 'b' stands twice"),
        ("a: [1\n", "s.yaml:2:1", "not YAML"),
        ("a: 1\n\tb: 2\n", "s.yaml:2:1", "not YAML"),
        ("a: *nowhere\n", "s.yaml:1:4", "undefined alias"),
        ("- 1\n", "s.yaml:1:1", "not a mapping"),
        ("1: 2\n", "s.yaml:1:1", "the key 1 is not text"),
        ("a: !!python/x 1\n", "s.yaml:1:4 (a)", "cannot stand in a scenario"),
        ("a: \x01\n", "s.yaml:1", "a character that YAML does not allow"),
        ("", "s.yaml", "the scenario is empty"),
        ("# nothing\n", "s.yaml", "the scenario is empty"),
    ],
)
def test_text_that_is_no_scenario_is_refused_with_its_place(text, place, problem):
    error = refused(read, text)
    assert str(error.place) == place
    assert problem in error.problem


def test_tabs_are_told():
    assert "spaces" in refused(read, "a:\n\tb: 2\n").remedy


def test_an_alias_bomb_is_refused():
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in zip("abcde", "bcdef", strict=True)]
    assert "more than" in refused(read, "\n".join(lines)).problem


@settings(max_examples=60)
@given(st.text(alphabet="ab:-[]{}&*!|>'\"\n\t #,?%@1.", max_size=40))
def test_any_text_is_read_or_refused_with_one_message(text):
    try:
        document = read(text)
    except InputError:
        return
    assert isinstance(document.data, dict)


def test_a_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "quickstart.yaml").write_text("a: 1\n")
    error = refused(read_file, tmp_path / "quickstrat.yaml")
    assert "there is no file" in error.problem
    assert "quickstart.yaml" in error.remedy


def test_what_is_no_text_file_is_refused(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("a: 1\nb: é\n".encode("latin-1"))
    error = refused(read_file, tmp_path / "latin.yaml")
    assert (error.problem, error.place.line) == ("this is not UTF-8 text", 2)
    assert "is a folder" in refused(read_file, tmp_path).problem


def test_python_values_are_taken_and_strange_ones_refused():
    assert from_mapping({"a": (1, 2)}, source="data", base=Path()).data == {"a": [1, 2]}
    error = refused(lambda: from_mapping({"a": {"b": object()}}, source="data", base=Path()))
    assert str(error.place) == "data (a.b)"


# --- extends ---------------------------------------------------------------------------------------------------------


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / "top.yaml"


def test_a_layer_overrides_its_base_key_by_key(tmp_path):
    top = write(tmp_path, base="a: {x: 1, y: 2}\nb: [1, 2]\nc: 3\n", top="extends: base.yaml\na: {y: 5}\nb: [9]\n")
    document = load_layers(top)
    assert document.data == {"a": {"x": 1, "y": 5}, "b": [9], "c": 3}
    assert document.mark(("a", "x")).origin() == f"{tmp_path / 'base.yaml'}:1:8"
    assert document.mark(("a", "y")).origin() == f"{top}:2:8"
    assert ("b", 1) not in document.marks


def test_of_several_bases_the_later_wins_and_bases_may_have_bases(tmp_path):
    top = write(
        tmp_path,
        root="a: 0\nr: 1\n",
        one="extends: root.yaml\na: 1\n",
        two="a: 2\n",
        top="extends: [one.yaml, two.yaml]\n",
    )
    assert load_layers(top).data == {"a": 2, "r": 1}


def test_null_takes_an_inherited_value_away_later(tmp_path):
    top = write(tmp_path, base="a: {x: 1}\n", top="extends: base.yaml\na: null\n")
    assert load_layers(top).data == {"a": None}


def test_another_kind_replaces_the_inherited_choice(tmp_path):
    base = "workload: {arrivals: {gamma: {rate: 1/s, cv: 2}}, prompt: {fixed: 3}, requests: 5}\n"
    top = write(tmp_path, base=base, top="extends: base.yaml\nworkload: {arrivals: {poisson: {rate: 2/s}}}\n")
    assert load_layers(top).data["workload"] == {
        "arrivals": {"poisson": {"rate": "2/s"}},
        "prompt": {"fixed": 3},
        "requests": 5,
    }
    top = write(tmp_path, base=base, top="extends: base.yaml\nworkload: {trace: a.csv}\n")
    assert load_layers(top).data["workload"] == {"trace": "a.csv"}
    top = write(tmp_path, base=base, top="extends: base.yaml\nworkload: {arrivals: {gamma: {cv: 3}}}\n")
    assert load_layers(top).data["workload"]["arrivals"] == {"gamma": {"rate": "1/s", "cv": 3}}


def test_rate_and_arrivals_are_two_words_for_one_thing(tmp_path):
    base = "workload: {rate: 1/s, requests: 5}\nother: {rate: 1/s}\n"
    top = write(tmp_path, base=base, top="extends: base.yaml\nworkload: {arrivals: burst}\nother: {arrivals: x}\n")
    document = load_layers(top)
    assert document.data == {
        "workload": {"arrivals": "burst", "requests": 5},
        "other": {"rate": "1/s", "arrivals": "x"},
    }
    assert ("workload", "rate") not in document.marks
    assert apply_set(document, "workload.rate=3/s").data["workload"] == {"rate": "3/s", "requests": 5}
    assert document.data["workload"]["arrivals"] == "burst"


def test_a_circle_of_bases_is_named(tmp_path):
    top = write(tmp_path, one="extends: two.yaml\n", two="extends: one.yaml\n", top="extends: one.yaml\n")
    error = refused(load_layers, top)
    assert "one.yaml -> two.yaml -> one.yaml" in error.problem
    assert str(error.place) == f"{tmp_path / 'two.yaml'}:1:10 (extends)"


def test_a_missing_base_is_told_where_it_is_asked_for(tmp_path):
    top = write(tmp_path, base="a: 1\n", top="x: 1\nextends: bass.yaml\n")
    error = refused(load_layers, top)
    assert str(error.place) == f"{top}:2:10 (extends)"
    assert "base.yaml" in error.remedy


def test_bases_are_found_from_the_file_that_names_them(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "base.yaml").write_text("extends: root.yaml\n")
    (tmp_path / "sub" / "root.yaml").write_text("a: 1\n")
    assert load_layers(write(tmp_path, top="extends: sub/base.yaml\n")).data == {"a": 1}


def test_extends_wants_a_name():
    assert "is not a file name" in refused(with_bases, read("extends: 3\n")).problem


# --- set -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "assignment", "expected"),
    [
        ("a: {b: 1}\n", "a.b=2", {"a": {"b": 2}}),
        ("a: {b: 1}\n", "a.c.d=8/s", {"a": {"b": 1, "c": {"d": "8/s"}}}),
        ("a: [1, {b: 2}]\n", "a[1].b=3", {"a": [1, {"b": 3}]}),
        ("a: [1, 2]\n", "a.0=3", {"a": [3, 2]}),
        ("a: 1\n", "a={x: [1, 2]}", {"a": {"x": [1, 2]}}),
        ("a: 1\n", "a=", {"a": None}),
        ("a: {}\n", 'a."llama-3.1".b=true', {"a": {"llama-3.1": {"b": True}}}),
        ("hardware: h100-sxm\n", "hardware.tp=2", {"hardware": {"device": "h100-sxm", "tp": 2}}),
        ("engine: vllm\n", "engine.max_num_seqs=64", {"engine": {"preset": "vllm", "max_num_seqs": 64}}),
        ("w: {prompt: 1024}\n", "w.prompt.max=2k", {"w": {"prompt": {"fixed": 1024, "max": "2k"}}}),
    ],
)
def test_set_overrides_one_value_typed_as_yaml(text, assignment, expected):
    before = read(text)
    copy = repr(before.data)
    document = apply_set(before, assignment)
    assert document.data == expected
    assert repr(before.data) == copy


def test_what_was_set_says_so():
    document = apply_set(read("a: {b: {c: 1}}\n"), "a.b=7")
    assert document.mark(("a", "b")).origin() == "--set a.b=7"
    assert ("a", "b", "c") not in document.marks
    assert document.mark(("a",)).origin() == "s.yaml:1:4"


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("a", "not an assignment"),
        ("=3", "not an assignment"),
        ("seed.x=3", "seed holds the value 7"),
        ("list[5]=3", "list is a list of 2"),
        ("list.x=3", "'x' is not a position"),
        ("a..b=3", "cannot be read at character 3"),
        ("a={x: 1", "not YAML"),
    ],
)
def test_what_cannot_be_set_is_refused(assignment, problem):
    error = refused(apply_set, read("a: {}\nseed: 7\nlist: [1, 2]\n"), assignment)
    assert problem in error.problem
    assert error.place.file == f"--set {assignment}"


# --- characters that JSON writes as two escapes -----------------------------------------------------------------------


def test_a_file_that_json_wrote_has_whole_characters():
    data = {"name": "a \U0001f4a5", "\U0001f4a5": ["\U0001f4a5", "é"]}
    escaped = json.dumps(data)
    assert "\\ud83d" in escaped
    assert read(escaped).data == data
    assert from_mapping({"name": "\ud83d\udca5"}, source="s", base=Path()).data == {"name": "\U0001f4a5"}


@pytest.mark.parametrize("text", ['{"name": "a \\ud83d"}', '{"\\udca5": 1}', '{"list": ["\\udca5"]}'])
def test_half_a_character_is_refused_where_it_stands(text):
    error = refused(read, text)
    assert "has half of a character" in error.problem
    assert error.place.line == 1


# --- names -----------------------------------------------------------------------------------------------------------


def test_routes_are_written_as_set_takes_them():
    assert dotted(("workload", "mix", 0, "rate")) == "workload.mix[0].rate"
    assert dotted(("models", "llama-3.1", "ref")) == 'models."llama-3.1".ref'


def test_the_nearest_name_ignores_case_and_gives_up_in_time():
    assert nearest("Poison", ["poisson", "gamma"]) == "poisson"
    assert nearest("zzz", ["poisson", "gamma"]) is None

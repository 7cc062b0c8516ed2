"""A plug-in of a script's own, named without packaging it."""

import hermes_core as hermes
import pytest
from hermes_core.api import HermesError, InputError, load_plugin, plugin_names
from hermes_core.serving.policies.chunked import Chunked
from hermes_core.serving.routers import RoundRobin

GROUP = "hermes.routers"


def test_it_is_found_within_the_block_and_gone_after_it():
    with hermes.plugged_in(GROUP, "mine", RoundRobin):
        assert "mine" in plugin_names(GROUP)
        assert load_plugin(GROUP, "mine") is RoundRobin
        with hermes.plugged_in(GROUP, "other", Chunked):
            assert {"mine", "other", "random"} <= set(plugin_names(GROUP))
            assert load_plugin(GROUP, "other") is Chunked
            with pytest.raises(InputError, match=r"Did you mean 'other'.*Known: .*mine"):
                load_plugin(GROUP, "othe")
    assert not {"mine", "other"} & set(plugin_names(GROUP))
    with pytest.raises(InputError):
        load_plugin(GROUP, "mine")


def test_it_belongs_to_its_group_only():
    with hermes.plugged_in(GROUP, "mine", RoundRobin):
        assert "mine" not in plugin_names("hermes.batch_policies")


def test_it_cannot_hide_what_is_there():
    for name in ("random", "mine"):
        with (
            hermes.plugged_in(GROUP, "mine", RoundRobin),
            pytest.raises(HermesError, match="choose another name"),
            hermes.plugged_in(GROUP, name, Chunked),
        ):
            pass


def test_it_is_gone_after_an_error():
    with pytest.raises(ZeroDivisionError), hermes.plugged_in(GROUP, "mine", RoundRobin):
        _ = 1 / 0
    assert "mine" not in plugin_names(GROUP)

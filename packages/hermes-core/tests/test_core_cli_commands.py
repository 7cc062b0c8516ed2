"""The root command: listing, finding and loading commands, and what errors look like."""

import json
import resource
import subprocess
import sys

import pytest
from hermes_core.api import InputError
from hermes_core.api.plugins import load_plugin
from hermes_core.cli import discovery, main
from hermes_core.config.schema import schema_text


def hermes(*arguments, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "hermes_core.cli", *arguments], capture_output=True, text=True, check=False, **kwargs
    )


def install(folder, name, entry_points, **modules):
    """Make a distribution that is found on sys.path."""
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(entry_points)
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)


def test_help_lists_every_command_with_a_line_of_help(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command, words in [("run", "Simulate a scenario"), ("explain", "Show every value"), ("schema", "JSON Schema")]:
        assert command in text
        assert words in text


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom hermes_core.cli import main\nmain(['--help'])\n"
        "heavy = {'numpy', 'pydantic', 'ruamel', 'structlog', 'google', 'hermes_core.simulation', 'hermes_core.config',"
        " 'hermes_hw', 'hermes_analysis', 'hermes_workload', 'hermes_core.cli.run_command'}\n"
        "sys.stderr.write(','.join(sorted(heavy & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_help_takes_less_than_four_tenths_of_a_second():
    """In processor time, so that a busy machine does not matter."""
    hermes("--help")
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert hermes("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.4


def test_nothing_at_all_is_a_call_for_help():
    done = hermes()
    assert done.returncode == 2
    assert "Usage: hermes" in done.stdout + done.stderr


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("hermes 1.")


def test_a_misspelt_command_names_the_nearest(capsys):
    assert main(["rnu"]) == 2
    assert "Did you mean 'run'?" in capsys.readouterr().err


def test_plugins_lists_group_name_distribution_and_version(capsys):
    assert main(["plugins", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    row = next(row for row in rows if (row["group"], row["name"]) == ("hermes.commands", "run"))
    assert row["target"] == "hermes_core.cli.run_command:run"
    assert row["distribution"] == "hermes-core"
    assert row["version"].startswith("1.")
    assert main(["plugins"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["GROUP", "NAME", "DISTRIBUTION", "VERSION"]
    assert any(line.split()[:3] == ["hermes.routers", "least_tokens", "hermes-core"] for line in table)


def test_another_package_adds_a_command_and_a_group(tmp_path, monkeypatch, capsys):
    install(
        tmp_path,
        "acme",
        "[hermes.commands]\nacme-greet = acme_cli:greet\nacme = acme_group:app\n",
        acme_cli='"""Module."""\nimport typer\n'
        'def greet(name: str):\n    """Greet somebody."""\n    typer.echo(f"hi {name}")\n',
        acme_group='"""Do acme things.\n\nMore."""\nimport typer\napp = typer.Typer()\n'
        '@app.command()\ndef one():\n    """One."""\n    typer.echo("one")\n',
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "Greet somebody." in text
    assert "Do acme things." in text
    assert "acme_cli" not in sys.modules
    assert main(["acme-greet", "you"]) == 0
    # A group stays a group, with one command in it too.
    assert main(["acme", "one"]) == 0
    assert capsys.readouterr().out == "hi you\none\n"


def test_two_commands_of_one_name_are_refused_naming_both(tmp_path, monkeypatch, capsys):
    install(tmp_path / "a", "acme", "[hermes.commands]\nbrew = acme_x:brew\n")
    install(tmp_path / "b", "bolt", "[hermes.commands]\nbrew = bolt_x:brew\n")
    monkeypatch.syspath_prepend(tmp_path / "a")
    monkeypatch.syspath_prepend(tmp_path / "b")
    assert main(["--help"]) == 1
    message = capsys.readouterr().err
    assert "'brew'" in message
    assert "acme" in message
    assert "bolt" in message


def test_a_command_whose_package_lacks_something_says_what_to_install(tmp_path, monkeypatch, capsys):
    install(
        tmp_path, "acme", "[hermes.commands]\nacme-lack = acme_lack:go\n", acme_lack="import not_installed_anywhere\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["acme-lack"]) == 1
    message = capsys.readouterr().err
    assert "not_installed_anywhere" in message
    assert "pip install 'acme[cli]'" in message
    assert "Traceback" not in message


def test_help_of_what_cannot_be_read_is_empty(tmp_path, monkeypatch):
    install(
        tmp_path, "acme", "[hermes.commands]\nacme-bad = acme_bad:go\nacme-no = acme_nowhere:go\n", acme_bad="def (\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    entries = discovery.command_entries()
    assert discovery.one_line_help(entries["acme-bad"]) == ""
    assert discovery.one_line_help(entries["acme-no"]) == ""
    assert list(entries)[:2] == ["run", "explain"]


def test_without_the_cli_extra_the_message_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "hermes_core.cli.root", raising=False)
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.setattr(sys.modules["hermes_core.cli"], "root", None, raising=False)
    assert main(["--help"]) == 1
    assert "pip install 'hermes-core[cli]'" in capsys.readouterr().err


def test_an_error_is_one_message_and_its_exit_code():
    done = hermes("run", "nowhere.yaml")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no file nowhere.yaml")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--debug", "run", "nowhere.yaml"], ["run", "nowhere.yaml", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(arguments):
    done = hermes(*arguments)
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_debug_by_the_environment(monkeypatch):
    monkeypatch.setenv("HERMES_DEBUG", "1")
    assert "Traceback" in hermes("run", "nowhere.yaml").stderr
    monkeypatch.setenv("HERMES_DEBUG", "0")
    assert "Traceback" not in hermes("run", "nowhere.yaml").stderr


def test_a_fault_is_told_without_a_traceback(tmp_path, monkeypatch):
    install(tmp_path, "acme", "[hermes.commands]\nacme-fault = acme_fault:go\n", acme_fault="def go():\n    1 / 0\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = hermes("acme-fault")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in hermes("acme-fault", "--debug").stderr


def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"{sys.executable} -m hermes_core.cli schema | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout == "{\n"
    assert done.stderr == ""


def test_schema_prints_the_schema(capsys):
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == schema_text()


def test_a_command_or_plug_ins_of_a_package_that_is_not_installed_name_it(monkeypatch, capsys):
    alone = {name: entry for name, entry in discovery.command_entries().items() if entry.dist.name == "hermes-core"}
    monkeypatch.setattr("hermes_core.cli.root.command_entries", lambda: alone)
    for command, owner in (("hw", "hermes-hw"), ("workload", "hermes-workload"), ("report", "hermes-analysis")):
        assert main([command]) == 1
        assert f"the command '{command}' comes with {owner}, which is not installed" in capsys.readouterr().err
    monkeypatch.setattr("hermes_core.api.plugins._group", lambda group: {})
    with pytest.raises(InputError, match="None is installed: hermes-workload brings them"):
        load_plugin("hermes.workload_generators", "named")
    with pytest.raises(InputError, match=r"None is installed\.$"):
        load_plugin("hermes.routers", "random")

"""Help: fast, complete, and each text ends with an example."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import typer

from wazuka.cli.app import app

HEAVY = ("torch", "numpy", "pandas", "timm", "onnxruntime", "sklearn", "scipy", "matplotlib", "distributed")


def commands(group: object = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Every command with its words."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.mark.parametrize("words", [one for one, _ in commands()], ids=" ".join)
def test_every_help_ends_with_an_example_of_its_own_command(words: tuple[str, ...], wazuka: Callable) -> None:
    command = dict(commands())[words]
    text = command.help.strip().splitlines()  # type: ignore[attr-defined]
    assert text[-1].strip().startswith(f"Example: wazuka {' '.join(words)}")
    result = wazuka(*words, "--help")
    assert result.code == 0
    assert "Example:" in result.out


def test_help_imports_nothing_heavy() -> None:
    """Half a second is promised; what would break it is an import, which this holds without a clock."""
    code = (
        "import sys\nfrom wazuka.cli.app import run\n"
        "assert run(['--help']) == 0 and run(['poc', '--help']) == 0\n"
        f"print('loaded:', [one for one in {HEAVY!r} if one in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "loaded: []"


def test_the_contracts_commands_are_there() -> None:
    words = {" ".join(one) for one, _ in commands()}
    assert words >= {
        "demo", "import", "check", "poc", "run", "report", "predict", "evaluate", "backbones list", "backbones show",
        "backbones add", "recipes list", "recipes show", "methods list", "methods show", "doctor", "cite", "export",
    }  # fmt: skip


def test_informing_commands_answer(wazuka: Callable) -> None:
    assert "linear-probe" in wazuka("methods", "list").out
    assert "steps" in wazuka("methods", "show", "finetune").out
    assert "spine-smoke" in wazuka("recipes", "list").out
    assert wazuka("recipes", "show", "spine").out.startswith("# Frozen backbone")
    assert "Holm" in wazuka("cite").out
    assert "resnet18" in wazuka("backbones", "list").out
    assert "license" in wazuka("backbones", "show", "resnet18").out
    assert "torch" in wazuka("doctor").out
    assert wazuka("--version").out.startswith("wazuka ")

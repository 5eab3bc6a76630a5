"""Run commands in this process and see their exit code and output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from wazuka.cli.app import run


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def wazuka(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """`wazuka("check", folder)` runs a command."""

    def call(*arguments: object) -> Result:
        code = run([str(one) for one in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call

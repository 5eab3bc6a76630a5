"""Memory before a run: what is said where a training does not fit, what is offered, and what is refused."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace
from typing import Any

import pytest

from tests.study.conftest import make_study
from tests.toy_images import TINY, tiny_encoder
from wazuka.adapt import finetune, fixmatch, lora
from wazuka.core.errors import ConfigError
from wazuka.data.manifest import Dataset
from wazuka.nn.memory import HEAP_HEADROOM, Footprint, Room
from wazuka.study import estimate
from wazuka.study.context import Settings
from wazuka.study.estimate import BASE_MEMORY_MB, memory_line, training_of
from wazuka.study.run import run_study

BASE = BASE_MEMORY_MB * 2**20
PLENTY = 2**40


def strategy(config: Any) -> Any:
    return SimpleNamespace(name="mine", adapt=SimpleNamespace(config=config), image=SimpleNamespace(size=160))


def measured(name: str, method: str, config: Any) -> Footprint:
    found = estimate._footprint(tiny_encoder(name), training_of(method, config, device="cpu", labels=10**6), 160)
    assert found is not None
    return found


def line_for(config: Any, *, name: str, method: str, free: int, total: int = PLENTY, workers: int = 1) -> str | None:
    needs = measured(name, method, config)
    room = Room(free=int(free / (1 - HEAP_HEADROOM)) + 1, total=total)
    return memory_line(strategy(config), tiny_encoder(name), needs, room, workers=workers, device="cpu")


def test_what_is_trained_is_read_from_a_methods_settings() -> None:
    how: dict[str, Any] = {"device": "cpu", "labels": 100}
    whole = training_of("finetune", finetune.Config(batch=64, optimizer="sgd", ema=0.9), **how)
    assert (whole.trained, whole.images, whole.moments, whole.average) == ("all", 64, 1, True)
    assert training_of("finetune", finetune.Config(train="head"), **how).trained == "head"
    adapters = training_of("lora", lora.Config(batch=16, accumulate=3, blocks=2, checkpointing=True), **how)
    assert (adapters.trained, adapters.images, adapters.blocks, adapters.checkpointing) == ("adapters", 6, 2, True)
    both = training_of("fixmatch", fixmatch.Config(batch=16, mu=3), **how)
    assert (both.images, both.average) == (16 * 7, True)
    assert not training_of("fixmatch", fixmatch.Config(ema=0), **how).average
    assert training_of("finetune", finetune.Config(batch=64), device="cpu", labels=20).images == 20


def test_nothing_is_said_where_it_fits() -> None:
    assert line_for(lora.Config(), name="test_vit", method="lora", free=PLENTY) is None


def test_what_is_offered_fits() -> None:
    config = lora.Config(batch=4096)
    needs = measured("test_vit", "lora", config)
    free = needs.estimate(100).total
    line = line_for(config, name="test_vit", method="lora", free=free)
    assert line is not None and line.startswith("Memory: `mine` needs about ")
    parts = int(re.findall(r"`accumulate: (\d+)`", line)[0])
    fitting = dataclasses.replace(config, accumulate=parts)
    assert line_for(fitting, name="test_vit", method="lora", free=free) is None
    assert line_for(dataclasses.replace(config, accumulate=parts - 1), name="test_vit", method="lora", free=free)
    assert "`adapt: linear-probe`" in line and "accumulate" in line


def test_without_accumulation_a_smaller_batch_is_offered_and_processes_share() -> None:
    config = finetune.Config(batch=4096)
    needs = measured(TINY, "finetune", config)
    free = needs.estimate(1000).total
    for workers, most in ((1, 1000), (2, needs.most_images(free // 2))):
        line = line_for(config, name=TINY, method="finetune", free=free, workers=workers)
        assert line is not None
        assert abs(int(re.findall(r"`batch: (\d+)`", line)[0]) - most) <= 1
        assert ("for each of 2 processes" in line) == (workers == 2)


def test_a_training_that_fits_with_no_batch_is_refused_before_it_starts() -> None:
    config = finetune.Config()
    needs = measured(TINY, "finetune", config)
    total = int((needs.estimate(1).total + BASE) / (1 - HEAP_HEADROOM)) - 2**20
    with pytest.raises(
        ConfigError, match=r"`mine` needs about \d+\.\d GB of memory for one image at a time, this machine"
    ):
        line_for(config, name=TINY, method="finetune", free=0, total=total)


def test_a_run_says_what_would_fit_and_goes_on(
    clinic: Dataset, settings: Settings, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(estimate, "memory_of", lambda device: Room(free=2**20, total=2**35))
    study = make_study(clinic, budgets=[12], repeats=1)
    run_study(study, out=tmp_path / "run", settings=settings)
    said = capsys.readouterr().err
    assert "Memory: `net` needs about " in said and "`probe` needs" not in said
    monkeypatch.setattr(estimate, "memory_of", lambda device: Room(free=2**20, total=2**20))
    with pytest.raises(ConfigError, match=r"`net` needs about .* for one image at a time"):
        run_study(study, out=tmp_path / "other", settings=settings)

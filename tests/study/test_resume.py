"""Killed processes: a study goes on where `kill -9` left it, and a Dask cluster survives the loss of a worker."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.study.conftest import NETWORK, PROBE, make_study, study_values
from tests.study.test_run import numbers, stamps
from wazuka.core.records import read_json, read_table
from wazuka.data.manifest import Dataset
from wazuka.study.context import Settings
from wazuka.study.run import run_study

KILLS = 10
TRIALS = 12
SLOWER = NETWORK | {"repeats": 2, "adapt": {"method": "finetune", "steps": 40, "batch": 4, "lr": 1e-3}}
STUDY = {"strategies": {"net": SLOWER, "probe": PROBE}, "budgets": [12, 30, "100%"], "repeats": 2}
"""12 trials: 6 of a network, slow enough that kills hit different ones, then 6 of a batched solve."""


def environment(cache: Path) -> dict[str, str]:
    return os.environ | {"WAZUKA_CACHE": str(cache), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def start(study: Path, out: Path, cache: Path, *more: str) -> subprocess.Popen[bytes]:
    """`wazuka run` as a user starts it, in a process group of its own."""
    command = [sys.executable, "-m", "wazuka", "run", str(study), "--out", str(out), "--device", "cpu", *more]
    return subprocess.Popen(
        command, env=environment(cache), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def finish(process: subprocess.Popen[bytes], timeout: float = 240) -> str:
    _, error = process.communicate(timeout=timeout)
    assert process.returncode == 0, error.decode()[-3000:]
    return error.decode()


@pytest.mark.slow
def test_ten_kills_at_random_moments_lose_nothing_finished_and_change_no_number(
    clinic: Dataset, tmp_path: Path
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(study_values(clinic, **STUDY), sort_keys=False))
    settings = Settings(cache=str(tmp_path / "cache-whole"), threads=1, workers=1)
    run_study(make_study(clinic, **STUDY), out=tmp_path / "whole", settings=settings)
    run, cache = tmp_path / "run", tmp_path / "cache"
    rng = random.Random(5)
    kept: dict[str, tuple[int, str]] = {}
    moments = []
    for kill in range(KILLS):
        process = start(study, run, cache)
        done = len(list(run.glob("trials/*/record.json")))
        _wait_for_kill(process, run, rng, early=kill < 3 or done == TRIALS)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        now = stamps(run) if run.exists() else {}
        assert {name: now[name] for name in kept} == kept, "a finished record was touched"
        moments.append(len(list(run.glob("trials/*/record.json"))))
        kept = now
    finish(start(study, run, cache))
    after = stamps(run)
    assert {name: after[name] for name in kept} == kept
    assert len(set(moments)) >= 3, f"kills hit too few different moments: {moments}"
    assert numbers(run) == numbers(tmp_path / "whole")
    assert not list(run.rglob("*.part"))
    assert (run / "report.html").is_file()


def _wait_for_kill(process: subprocess.Popen[bytes], run: Path, rng: random.Random, *, early: bool) -> None:
    """Wait a random while: early kills hit imports and preparation, later ones hit trials as they come."""
    if early:
        time.sleep(rng.uniform(0.2, 2.5))
        return
    there = len(list(run.glob("trials/*/record.json")))
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if len(list(run.glob("trials/*/record.json"))) > there:
            break
        time.sleep(0.01)
    if len(list(run.glob("trials/*/record.json"))) < TRIALS:
        time.sleep(rng.uniform(0, 0.3))


@pytest.mark.slow
def test_a_dask_cluster_that_loses_a_worker_half_way_gives_the_same_results(clinic: Dataset, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(study_values(clinic, **STUDY), sort_keys=False))
    cache = tmp_path / "cache"
    settings = Settings(cache=str(cache), threads=1, workers=1)
    run_study(make_study(clinic, **STUDY), out=tmp_path / "whole", settings=settings)
    with _Cluster(cache, tmp_path) as cluster:
        process = start(study, tmp_path / "run", cache, "--scheduler", cluster.address)
        deadline = time.monotonic() + 120
        while len(list((tmp_path / "run").glob("trials/*/record.json"))) < 3 and time.monotonic() < deadline:
            assert process.poll() is None, "the run ended before a worker could be killed"
            time.sleep(0.01)
        cluster.kill_one()
        finish(process)
    assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")
    table = read_table(tmp_path / "run" / "results.parquet")
    assert table["trial"].nunique() == len(read_json(tmp_path / "run" / "plan.json")["trials"]) == 12


class _Cluster:
    """A real scheduler and two worker processes on loopback, each worker its own process group."""

    def __init__(self, cache: Path, folder: Path) -> None:
        self.cache, self.folder = cache, folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> _Cluster:
        log = self.folder / "scheduler.log"
        self._start(log, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self.address = self._address(log)
        for number in range(2):
            self._start(
                self.folder / f"worker{number}.log", "worker", self.address, "--nthreads", "1", "--no-nanny",
                "--no-dashboard", "--memory-limit", "0", "--local-directory", str(self.folder), "--name", str(number),
            )  # fmt: skip
        return self

    def _start(self, log: Path, what: str, *arguments: str) -> None:
        command = [sys.executable, "-m", "distributed.cli.dask_" + what, *arguments]
        with log.open("wb") as file:
            self.processes.append(
                subprocess.Popen(command, env=environment(self.cache), stdout=file, stderr=file, start_new_session=True)
            )

    @staticmethod
    def _address(log: Path) -> str:
        for _ in range(300):
            found = re.search(r"Scheduler at:\s+(tcp://\S+)", log.read_text())
            if found:
                return found.group(1)
            time.sleep(0.1)
        raise AssertionError(f"the scheduler did not start: {log.read_text()}")

    def kill_one(self) -> None:
        """`kill -9` the first worker."""
        os.killpg(self.processes[1].pid, signal.SIGKILL)

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
def test_ctrl_c_leaves_a_resumable_run_and_says_so(clinic: Dataset, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    longer = NETWORK | {
        "adapt": {"method": "finetune", "steps": 400, "batch": 4, "lr": 1e-3}
    }  # runs when the signal comes
    values = study_values(clinic, **STUDY | {"strategies": {"probe": PROBE, "net": longer}, "budgets": [12]})
    study.write_text(yaml.safe_dump(values, sort_keys=False))
    process = start(study, tmp_path / "run", tmp_path / "cache")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run").glob("trials/*/record.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped. The same command goes on where this one stopped." in error.decode()
    assert "Traceback" not in error.decode()
    assert not (tmp_path / "run" / "report.html").exists()
    assert "were there already" in finish(start(study, tmp_path / "run", tmp_path / "cache"))

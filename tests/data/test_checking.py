"""Files checked in processes: every job answered once, also when the reader of one kills its process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.import_sources import write_pictures
from wazuka.data import checking
from wazuka.data.inspect import Checked, Job, check_file


def _jobs(folder: Path, names: list[str]) -> list[Job]:
    return [
        Job(number=number, path=str(path), mask=None, frames=None, root=str(folder.resolve()))
        for number, path in enumerate(write_pictures(folder, names))
    ]


def check_or_die(job: Job) -> Checked:
    """What a decoder with a memory error in C does to its process."""
    if "deadly" in job.path:
        os._exit(11)
    return check_file(job)


def test_a_file_that_kills_its_reader_is_answered_with_the_reason_and_the_rest_is_checked(tmp_path: Path) -> None:
    names = ["0.png", "1.png", "deadly.png", "3.png", "4.png"]
    jobs = _jobs(tmp_path, names)
    answers = sorted(checking.check_all(jobs, workers=2, check=check_or_die), key=lambda one: one.number)
    assert [one.number for one in answers] == list(range(5))
    assert [one.number for one in answers if one.error] == [2]
    assert answers[2].error == "the process that read it died (crash of the reader or out of memory)"
    assert answers[2].rows[0]["decode_error"] == answers[2].error
    assert [one.rows for one in answers[:2]] == [check_file(job).rows for job in jobs[:2]]


def test_few_files_are_checked_without_starting_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(workers: int) -> None:
        raise AssertionError("no process is worth its start here")

    monkeypatch.setattr(checking, "_pool", refuse)
    assert len(list(checking.check_all(_jobs(tmp_path, ["a.png", "b.png"])))) == 2
    assert list(checking.check_all([])) == []


def test_where_no_process_can_start_the_files_are_checked_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checking, "_first_pool", lambda workers: None)
    answers = list(checking.check_all(_jobs(tmp_path, ["a.png", "b.png"]), workers=2))
    assert [one.error for one in answers] == [None, None]
    assert "Worker processes cannot start here" in capsys.readouterr().err

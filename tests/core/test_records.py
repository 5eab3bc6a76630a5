"""Atomic files and keys: whole or absent, equal content gives equal names."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wazuka.core import records
from wazuka.core.errors import ArtifactError, OutOfSpace
from wazuka.core.hashing import canonical_json, derive_seed, hash_pixels, hash_strings, make_key
from wazuka.core.records import (
    clear_unfinished,
    finish,
    is_finished,
    read_json,
    read_table,
    write_json,
    write_table,
    writing,
)


def test_an_interrupted_write_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(KeyboardInterrupt), writing(path, "w") as file:
        file.write("half")
        raise KeyboardInterrupt
    assert read_json(path) == {"old": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_a_killed_writer_leaves_no_file_under_the_final_name(tmp_path: Path) -> None:
    code = (
        "import sys,time; from pathlib import Path; from wazuka.core.records import writing\n"
        f"with writing(Path({str(tmp_path / 'big.bin')!r})) as f:\n"
        "    f.write(b'x' * 1000); f.flush(); print('writing', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"writing"
    process.kill()
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "big.bin").exists()


def test_a_full_disk_is_said_in_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutOfSpace, match=r"No space left to write .*a\.json .* free some room or choose another --out"):
        write_json(tmp_path / "a.json", {})
    assert list(tmp_path.iterdir()) == []


def test_new_files_have_the_users_own_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_json(tmp_path / "a.json", {})
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_finished_folder_is_never_cleared_and_an_unfinished_one_keeps_its_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_text("go on from here")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "x").touch()
    clear_unfinished(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["checkpoint.pt"]
    finish(tmp_path, {"step": "x"})
    assert is_finished(tmp_path)
    with pytest.raises(ArtifactError, match="is finished; it is not made again"):
        clear_unfinished(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "\x80"])
def test_damaged_json_names_its_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match=r"record\.json is not valid JSON"):
        read_json(tmp_path / "record.json")


def test_missing_and_damaged_tables_name_their_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"t\.parquet does not exist"):
        read_table(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_text("no parquet")
    with pytest.raises(ArtifactError, match=r"t\.parquet is not a readable Parquet table"):
        read_table(tmp_path / "t.parquet")


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    table = pd.DataFrame({"id": pd.Series(["a", None], dtype="string"), "x": [1.5, np.nan]})
    write_table(tmp_path / "t.parquet", table)
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet"), table)


def test_not_a_number_is_refused_in_records(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


@given(st.dictionaries(st.text(), st.one_of(st.integers(), st.text(), st.booleans(), st.none()), max_size=6))
def test_a_key_does_not_depend_on_the_order_of_a_mapping(values: dict) -> None:
    assert make_key(values) == make_key(dict(reversed(list(values.items()))))


@given(st.lists(st.text(), max_size=5), st.lists(st.text(), max_size=5))
def test_hashes_of_string_lists_are_equal_only_for_equal_lists(a: list[str], b: list[str]) -> None:
    try:
        same = hash_strings(a) == hash_strings(b)
    except UnicodeEncodeError:  # lone surrogates are no text
        return
    assert same == (a == b)


def test_keys_see_types_dataclasses_and_nested_values() -> None:
    @dataclass(frozen=True)
    class Config:
        x: float = 1.0

    assert make_key(1) != make_key("1")
    assert make_key(Config()) == make_key({"x": 1.0})
    assert canonical_json({"b": (1, 2), "a": np.float64(0.5)}) == '{"a":0.5,"b":[1,2]}'
    with pytest.raises(TypeError, match="object cannot be written to a record"):
        make_key(object())


def test_pixel_hashes_see_shape_and_dtype_not_memory_layout() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert hash_pixels(image) == hash_pixels(np.asfortranarray(image))
    assert hash_pixels(image) != hash_pixels(image.reshape(4, 3))
    assert hash_pixels(image) != hash_pixels(image.astype(np.int16))


def test_derived_seeds_differ_by_use_and_repeat_by_name() -> None:
    seeds = {derive_seed(0, "trial", repeat) for repeat in range(1000)}
    assert len(seeds) == 1000
    assert derive_seed(0, "trial", 3) in seeds
    assert derive_seed(1, "trial", 3) not in seeds
    assert all(0 <= one < 2**63 for one in seeds)


def test_records_are_flushed_before_they_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append((tmp_path / "a.json").exists()))
    write_json(tmp_path / "a.json", {})
    assert seen == [False]
    assert records.RECORD == "record.json"
    assert time.time() - (tmp_path / "a.json").stat().st_mtime < 60


def test_json_that_is_no_mapping_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("[]")
    with pytest.raises(ArtifactError, match=r"plan\.json holds list, not a mapping"):
        records.read_json(tmp_path / "plan.json")

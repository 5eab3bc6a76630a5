"""Pseudonyms against the definition, and the salt's file under a race."""

from __future__ import annotations

import hashlib
import hmac
import stat
import threading
from pathlib import Path

import pytest

from wazuka.core.errors import DataError
from wazuka.data import pseudonyms


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WAZUKA_CONFIG", str(tmp_path / "config"))
    return tmp_path / "config"


def test_a_pseudonym_is_the_start_of_the_hmac_of_the_identifier() -> None:
    salt = b"0123456789abcdef"
    expected = hmac.new(salt, b"patient\x00" + b"DOE^JOHN", hashlib.sha256).hexdigest()[:16]
    assert pseudonyms.pseudonym(" DOE^JOHN ", salt) == f"p-{expected}"


def test_another_salt_gives_other_pseudonyms_and_another_name() -> None:
    one, two = b"a" * 16, b"b" * 16
    assert pseudonyms.pseudonym("7", one) != pseudonyms.pseudonym("7", two)
    assert pseudonyms.salt_name(one) != pseudonyms.salt_name(two)
    assert one.decode() not in pseudonyms.salt_name(one)


def test_equal_identifiers_share_a_pseudonym_and_different_ones_do_not() -> None:
    made = pseudonyms.pseudonyms(["7", "7 ", "8"], b"a" * 16)
    assert made["7"] == made["7 "] != made["8"]


def test_the_salt_is_made_once_for_the_owner_only_and_then_read(config: Path) -> None:
    salt = pseudonyms.read_salt()
    assert len(salt) == 2 * pseudonyms.SALT_BYTES
    assert pseudonyms.read_salt() == salt
    assert stat.S_IMODE((config / "salt").stat().st_mode) == 0o600
    assert [one.name for one in config.iterdir()] == ["salt"]


def test_processes_that_make_the_salt_at_once_read_the_same_one(config: Path) -> None:
    found: list[bytes] = []
    gate = threading.Barrier(8)

    def make() -> None:
        gate.wait()
        found.append(pseudonyms.read_salt())

    threads = [threading.Thread(target=make) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(found) == 8
    assert set(found) == {(config / "salt").read_bytes()}


def test_the_users_salt_file_is_read_and_none_is_made(config: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("a salt of the hospital\n")
    assert pseudonyms.read_salt(tmp_path / "mine") == b"a salt of the hospital"
    assert not config.exists()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "cannot be read (No such file or directory); give a readable file"),
        ("short", "has 5 bytes; a salt needs at least 16"),
    ],
)
def test_a_salt_file_that_is_missing_or_short_is_refused(tmp_path: Path, content: str | None, text: str) -> None:
    path = tmp_path / "mine"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError) as error:
        pseudonyms.read_salt(path)
    assert text in str(error.value)

"""`wazuka pretrain`: an encoder of a whole dataset that a later study starts from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.study import toy_pretrainer
from tests.study.conftest import PROBE, make_study
from wazuka import pretrain
from wazuka.cli.app import run as run_cli
from wazuka.core.errors import ConfigError, DataError
from wazuka.core.records import read_json, read_table
from wazuka.data.manifest import Dataset
from wazuka.nn.encoders import load_encoder
from wazuka.study.context import Settings
from wazuka.study.make_encoder import Wishes, make_encoder
from wazuka.study.run import run_study

NETWORK = "test_resnet"


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    presets = {"smoke": {"size": 0.02}, "broken": {"fail": True}}
    monkeypatch.setattr(toy_pretrainer, "METHOD", dataclasses.replace(toy_pretrainer.METHOD, presets=presets))
    monkeypatch.setitem(pretrain.METHODS.modules, "toy", "tests.study.toy_pretrainer")


def wishes(**changes: Any) -> Wishes:
    return Wishes(
        **({"method": "toy", "preset": "smoke", "backbone": NETWORK, "weights": "none", "size": 32} | changes)
    )


def test_the_folder_is_an_encoder_with_what_it_has_seen(clinic: Dataset, tmp_path: Path, settings: Settings) -> None:
    encoder = make_encoder(clinic, tmp_path / "e", wishes=wishes(), settings=settings)
    record, seen = read_json(tmp_path / "e" / "record.json"), read_table(tmp_path / "e" / "seen.parquet")
    assert load_encoder(tmp_path / "e").weights_hash == encoder.weights_hash and encoder.pretrained
    assert record["images"] == len(clinic.usable) == len(seen) and not seen["labeled"].any()
    assert set(seen["image_sha256"]) == set(clinic.usable["sha256"])
    assert (record["step"], record["notes"]) == ("pretrain", {"images": len(clinic.usable)})
    handed = read_json(tmp_path / "e" / "handed.json")
    assert not any("label" in one for one in [*handed, *handed["images"]])
    assert not list((tmp_path / "e").glob("checkpoint*.key"))


def test_a_study_starts_from_it_and_says_that_test_images_were_seen(
    clinic: Dataset, tmp_path: Path, settings: Settings
) -> None:
    make_encoder(clinic, tmp_path / "e", wishes=wishes(), settings=settings)
    strategies = {"plain": PROBE, "own": PROBE | {"backbone": str(tmp_path / "e"), "weights": "pretrained"}}
    outcome = run_study(make_study(clinic, strategies=strategies), out=tmp_path / "run", settings=settings)
    assert not outcome.failures
    noted = {one["what"]: one["why"] for one in read_json(tmp_path / "run" / "plan.json")["not_measured"]}
    assert "unlabeled test images" in noted["own"] and "plain" not in noted


def test_the_same_wishes_return_what_is_there_and_others_are_refused(
    clinic: Dataset, tmp_path: Path, settings: Settings
) -> None:
    first = make_encoder(clinic, tmp_path / "e", wishes=wishes(), settings=settings)
    stamp = (tmp_path / "e" / "record.json").stat().st_mtime_ns
    assert make_encoder(clinic, tmp_path / "e", wishes=wishes(), settings=settings).weights_hash == first.weights_hash
    assert (tmp_path / "e" / "record.json").stat().st_mtime_ns == stamp
    with pytest.raises(DataError, match="is not empty; choose another --out"):
        make_encoder(clinic, tmp_path / "e", wishes=wishes(seed=1), settings=settings)


def test_one_that_broke_down_can_be_made_again(clinic: Dataset, tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(RuntimeError, match="no luck today"):
        make_encoder(clinic, tmp_path / "e", wishes=wishes(preset="broken"), settings=settings)
    assert not (tmp_path / "e" / "record.json").exists()
    with pytest.raises(DataError, match="is not empty"):  # of other wishes
        make_encoder(clinic, tmp_path / "e", wishes=wishes(), settings=settings)
    with pytest.raises(RuntimeError, match="no luck today"):
        make_encoder(clinic, tmp_path / "e", wishes=wishes(preset="broken"), settings=settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "smok"}, "Did you mean `smoke`"),
        ({"method": "to"}, "`to`"),
        ({"weights": "drawn"}, "`pretrained`, `none`|pretrained, none"),
        ({"crop": 0}, "`crop` is 0"),
    ],
)
def test_a_mistake_is_one_line(
    changes: dict[str, Any], message: str, clinic: Dataset, tmp_path: Path, settings: Settings
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_encoder(clinic, tmp_path / "e", wishes=wishes(**changes), settings=settings)
    assert "\n" not in str(caught.value) and not (tmp_path / "e").exists()


def test_the_dataset_itself_is_never_written_to(clinic: Dataset, settings: Settings) -> None:
    with pytest.raises(DataError, match="which is never written to"):
        make_encoder(clinic, clinic.folder / "inside", wishes=wishes(), settings=settings)


def test_the_command_says_what_to_do_next(
    clinic: Dataset, tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--backbone", NETWORK, "--weights", "none", "--preset", "smoke", "--size", "32", "--crop", "40"]
    where = ["--out", str(tmp_path / "e"), "--cache", settings.cache, "--threads", "1", "--device", "cpu"]
    assert run_cli(["pretrain", "toy", str(clinic.folder), *where, *given]) == 0
    said = capsys.readouterr().out
    assert f"backbone: {tmp_path / 'e'}" in said and "image: {crop: 40, size: 32}" in said

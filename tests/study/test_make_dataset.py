"""`wazuka synthesize` and `wazuka audit`: a dataset of synthetic images with provenance, and its audit, end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.study.test_synthesis import plant
from wazuka.cli.app import run as run_cli
from wazuka.core.errors import ConfigError, DataError
from wazuka.core.records import read_json
from wazuka.data.manifest import Dataset, load
from wazuka.nn import backbones, generators
from wazuka.study.context import Settings
from wazuka.study.synthetic import make_dataset as making
from wazuka.study.synthetic.make_dataset import Wishes, make_dataset


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    presets = {"smoke": {"noise": 30.0}, "cheat": {"copies": True}}
    monkeypatch.setattr("tests.study.toy_synthesizer.METHOD", _with(presets))
    resolve = backbones.resolve
    monkeypatch.setattr(  # a small network without weights stands for the pretrained one
        backbones, "resolve", lambda name, *, weights, seed: resolve("test_resnet.r160_in1k", weights="none", seed=0)
    )


def _with(presets: dict[str, dict[str, object]]) -> object:
    import dataclasses

    from tests.study import toy_synthesizer

    return dataclasses.replace(toy_synthesizer.METHOD, presets=presets)


def wishes(**changes: object) -> Wishes:
    return Wishes(**({"method": "toy", "preset": "smoke", "size": 32, "count": 30} | changes))  # type: ignore[arg-type]


def test_the_dataset_holds_the_images_and_each_can_be_made_again_from_its_row(
    clinic: Dataset, tmp_path: Path, settings: Settings
) -> None:
    done = make_dataset(clinic, tmp_path / "d2", wishes=wishes(), settings=settings)
    made = load(tmp_path / "d2")
    assert done.blocked is None and done.images == len(made.usable) == 30
    assert made.card.classes == clinic.card.classes and made.card.simulated == clinic.card.simulated
    generator = generators.load(tmp_path / "d2" / making.GENERATOR)
    for row in made.usable.head(5).to_dict("records"):
        image = np.asarray(Image.open(Path(made.card.root) / row["path"]))
        again = generator.sample(np.array([generator.classes.index(row["label"])]), np.array([int(row["seed"])]))
        assert (image == again[0]).all()
    shares = clinic.usable["label"].value_counts(normalize=True)
    assert (made.usable["label"].value_counts() - 30 * shares).abs().max() <= 1


def test_a_finished_generator_is_used_again_and_another_study_is_refused(
    clinic: Dataset, tmp_path: Path, settings: Settings
) -> None:
    make_dataset(clinic, tmp_path / "d2", wishes=wishes(), settings=settings)
    with pytest.raises(DataError, match="is not empty"):
        make_dataset(clinic, tmp_path / "d2", wishes=wishes(), settings=settings)
    for name in ("dataset.yaml", "manifest.parquet"):
        (tmp_path / "d2" / name).unlink()
    record = (tmp_path / "d2" / making.GENERATOR / "record.json").read_bytes()
    with pytest.raises(DataError, match="is not empty"):
        make_dataset(clinic, tmp_path / "d2", wishes=wishes(seed=1), settings=settings)
    (tmp_path / "d2" / "inspection.parquet").unlink()
    make_dataset(clinic, tmp_path / "d2", wishes=wishes(), settings=settings)
    assert (tmp_path / "d2" / making.GENERATOR / "record.json").read_bytes() == record


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"preset": "smok"}, ConfigError, "Did you mean `smoke`?"),
        ({"method": "ty"}, ConfigError, "Unknown synthesize method `ty`"),
        ({"count": 1}, ConfigError, "--count 1 is below the 2 classes"),
        ({"count": 10**9}, ConfigError, "--count 1000000000 needs about"),
        ({"truncation": 0.0}, ConfigError, "--truncation 0 is wrong"),
    ],
)
def test_each_mistake_is_one_clear_line(
    clinic: Dataset,
    tmp_path: Path,
    settings: Settings,
    changes: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error) as caught:
        make_dataset(clinic, tmp_path / "d2", wishes=wishes(**changes), settings=settings)
    assert message in str(caught.value) and not (tmp_path / "d2").exists()


def test_the_dataset_that_is_learned_from_is_not_written_to(clinic: Dataset, settings: Settings) -> None:
    with pytest.raises(DataError, match="which is never written to"):
        make_dataset(clinic, clinic.folder / "d2", wishes=wishes(), settings=settings)


def test_a_generator_that_copies_writes_no_image(clinic: Dataset, tmp_path: Path, settings: Settings) -> None:
    done = make_dataset(clinic, tmp_path / "d2", wishes=wishes(preset="cheat", count=90), settings=settings)
    assert done.images == 0 and "as near to a training image as a copy" in str(done.blocked)
    assert not (tmp_path / "d2" / "dataset.yaml").exists()
    assert read_json(tmp_path / "d2" / making.GENERATOR / "memorization.json")["outcome"] == "issue"


def test_an_audit_reports_checks_figures_and_pictures(
    clinic: Dataset, tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset(clinic, tmp_path / "d2", wishes=wishes(), settings=settings)
    capsys.readouterr()
    places = ["--real", str(clinic.folder), "--synthetic", str(tmp_path / "d2"), "--out", str(tmp_path / "audit")]
    code = run_cli(["audit", *places, "--json", "--cache", settings.cache])
    checks = json.loads(capsys.readouterr().out)
    outcomes = {one["code"]: one["outcome"] for one in checks}
    assert code == (3 if "issue" in outcomes.values() else 0)
    assert outcomes["WZ203"] in ("warning", "issue"), "mean images with noise are all alike"
    assert set(checks[0]) == {"code", "name", "outcome", "count", "threshold", "reason", "ids"}
    summary = (tmp_path / "audit" / "summary.md").read_text(encoding="utf-8")
    assert "frechet" in summary and "WZ211" in summary
    assert (tmp_path / "audit" / "grid.png").is_file()
    assert read_json(tmp_path / "audit" / "record.json")["compared_with"].startswith("The generator was trained on")

"""A small simulated clinic, imported once, and a study on it that takes seconds."""

from __future__ import annotations

from typing import Any

import pytest

from wazuka.data.importers.listing import ImportOptions
from wazuka.data.importing import import_dataset
from wazuka.data.manifest import Dataset
from wazuka.data.phantoms import make_clinic
from wazuka.study.config import Study, resolve_study
from wazuka.study.context import Settings

TINY = "test_resnet.r160_in1k"
"""timm's own network for tests: 0.5 M parameters, no weights needed with `weights: none`."""
PROBE: dict[str, Any] = {"backbone": TINY, "weights": "none", "adapt": "linear-probe"}
NETWORK: dict[str, Any] = {
    "backbone": TINY,
    "weights": "none",
    "adapt": {"method": "finetune", "steps": 3, "batch": 4, "lr": 1e-3},
    "repeats": 1,
}


@pytest.fixture(scope="session")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """24 patients of three scanners, 96 patches of 48 pixels, two corrupt files."""
    folder = tmp_path_factory.mktemp("clinic")
    make_clinic(folder / "source", patients=24, patches=4, side=48, corrupt=2, duplicates=1, seed=1)
    options = ImportOptions(
        table=folder / "source" / "labels.csv", image="image", label="label", patient="patient", domain="scanner"
    )
    return import_dataset(folder / "source", folder / "dataset", options=options, workers=1)


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """One thread, one process, a cache that the whole session shares."""
    return Settings(cache=str(tmp_path_factory.getbasetemp() / "study-cache"), threads=1, workers=1)


def study_values(clinic: Dataset, **changes: Any) -> dict[str, Any]:
    """A study of one probe and one network as a mapping; `changes` replace keys."""
    return {
        "dataset": str(clinic.folder),
        "image": {"size": 32},
        "budgets": [12, "100%"],
        "repeats": 2,
        "strategies": {"probe": PROBE, "net": NETWORK},
        "threads_per_trial": 1,
        "min_class_patients": 2,
    } | changes


def make_study(clinic: Dataset, **changes: Any) -> Study:
    """The same, resolved."""
    return resolve_study(study_values(clinic, **changes), folder=clinic.folder, where="study.yaml")

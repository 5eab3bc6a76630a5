"""The study of `wazuka demo`: a simulated clinic through the ordinary import, in minutes on two cores.

As techniques land they join `STRATEGIES` here; the whole stays under five minutes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wazuka.core.progress import say
from wazuka.data.importers.listing import ImportOptions
from wazuka.data.importing import import_dataset
from wazuka.data.phantoms import make_clinic
from wazuka.study.config import Study, resolve_study
from wazuka.study.sources import summary_lines

SIZE = 96
THREADS = 1
"""As the command holds the process to. Networks this small gain little from a second thread, and lose much of it on a busy machine."""
STRATEGIES: dict[str, Any] = {
    "random-probe": {"backbone": "resnet10t", "weights": "none", "adapt": "linear-probe"},
    "scratch": {
        "backbone": "test_resnet.r160_in1k",
        "weights": "none",
        "adapt": {"method": "finetune", "steps": 100, "batch": 16, "lr": 2e-3},
        "repeats": 3,
    },
}
"""Networks small enough for a CPU and for a machine without any weights: a frozen one with random weights (texture is
all that the simulated classes differ in) and one trained from scratch."""


def demo_study(out: Path) -> Study:
    """Simulate the clinic into `OUT/clinic`, import it into `OUT/dataset`, and return the study to run.

    An earlier demo in the folder is gone on with.
    """
    clinic, dataset = out / "clinic", out / "dataset"
    if not (dataset / "dataset.yaml").is_file():
        say("Simulating a clinic: histology-like patches of three scanners; nothing here is from a patient.")
        make_clinic(clinic)
        options = ImportOptions(
            table=clinic / "labels.csv",
            image="image",
            label="label",
            patient="patient",
            domain="scanner",
            simulated=True,
        )
        for line in summary_lines(import_dataset(clinic, dataset, options=options)):
            say(line)
    values = {
        "name": "demo",
        "dataset": str(dataset.resolve()),
        "image": {"size": SIZE},
        "budgets": [20, 100, "100%"],
        "repeats": 5,
        "baseline": "random-probe",
        "strategies": STRATEGIES,
        "goal": {"metric": "auroc", "target": 0.9},
        "threads_per_trial": THREADS,
        "costs": {"minutes_per_label": 2, "hourly_rate": 60, "currency": "EUR"},
    }
    return resolve_study(values, folder=out, where="demo")

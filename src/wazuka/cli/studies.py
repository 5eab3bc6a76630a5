"""Verbs that run studies: `demo`, `poc`, `run`, `report`."""

from __future__ import annotations

from pathlib import Path

import typer

from wazuka.cli import flow
from wazuka.core.errors import ConfigError

POC_THREADS = 2
DEMO_THREADS = 1


def register(app: typer.Typer) -> None:
    """Add this file's verbs to the command line."""
    app.command()(demo)
    app.command()(poc)
    app.command(name="run")(run_verb)
    app.command()(report)


def _names(text: str | None, what: str) -> tuple[str, ...] | None:
    if text is None:
        return None
    found = tuple(one.strip() for one in text.split(",") if one.strip())
    if not found:
        raise ConfigError(f"{what} is empty; give names separated by commas.")
    return found


def demo(
    out: Path = typer.Option(Path("wazuka-demo"), "--out", help="Folder for the data, the run and the report."),
    cache: Path | None = typer.Option(None, "--cache", help="Cache folder."),
) -> int:
    """A complete study on a simulated clinic: nothing is downloaded, about three minutes on two cores.

    Example: wazuka demo --out demo/
    """
    flow.fix_threads(DEMO_THREADS)
    from wazuka.study.demo import demo_study

    how = flow.settings(device="cpu", cache=cache, computing_threads=DEMO_THREADS)
    return flow.complete(demo_study(out), out=out / "run", how=how)


def poc(
    source: Path = typer.Argument(..., help="A folder of images, or a dataset folder made by `wazuka import`."),
    out: Path = typer.Option(..., "--out", help="Run folder; the same command goes on where it stopped."),
    preset: str = typer.Option("quick", "--preset", help="quick, standard or thorough."),
    budgets: str | None = typer.Option(None, "--budgets", help="Label budgets, as 20,50,10%,100%."),
    repeats: int | None = typer.Option(None, "--repeats", help="Repeats of every strategy."),
    strategies: str | None = typer.Option(None, "--strategies", help="Names, as linear-probe,scratch."),
    backbone: str | None = typer.Option(None, "--backbone", help="NAME, NAME=FILE.safetensors or FILE.onnx."),
    crop: int | None = typer.Option(None, "--crop", help="Central square to look at, in pixels."),
    size: int | None = typer.Option(None, "--size", help="Side in pixels that a network is given."),
    goal: str | None = typer.Option(None, "--goal", help="METRIC=VALUE, as auroc=0.85."),
    hours: float | None = typer.Option(None, "--hours", help="Most hours the study may take."),
    labels: int | None = typer.Option(None, "--labels", help="Most labels any trial may use."),
    after: Path | None = typer.Option(None, "--after", help="An earlier run whose proposed next stage to take."),
    min_class_patients: int = typer.Option(5, "--min-class-patients", help="Smaller classes are left out."),
    max_ms: float | None = typer.Option(None, "--max-ms", help="Gate: milliseconds per image of the final model."),
    max_memory: float | None = typer.Option(None, "--max-memory", help="Gate: memory in GB of the final model."),
    device: str = typer.Option("auto", "--device", help="auto, cpu or cuda."),
    cache: Path | None = typer.Option(None, "--cache", help="Cache folder."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace another study's run in this folder."),
) -> int:
    """Proof of concept: from a folder of images to a decision report.

    Example: wazuka poc datasets/mitosis --out runs/mitosis --backbone encoder.onnx --crop 64
    """
    flow.fix_threads(POC_THREADS)
    from wazuka.study.presets import Wishes, make_study
    from wazuka.study.sources import as_dataset

    for name, value in (("--repeats", repeats), ("--crop", crop), ("--size", size), ("--labels", labels)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; give a whole number of 1 or more.")
    wishes = Wishes(
        preset=preset,
        budgets=_names(budgets, "--budgets"),
        repeats=repeats,
        strategies=_names(strategies, "--strategies"),
        backbone=backbone,
        crop=crop,
        size=size,
        goal=goal,
        hours=hours,
        labels=labels,
        after=after,
        min_class_patients=min_class_patients,
        max_ms=max_ms,
        max_memory=max_memory,
    )
    how = flow.settings(device=device, cache=cache, computing_threads=POC_THREADS)
    study = make_study(as_dataset(source, out), wishes, settings=how, run=out)
    return flow.complete(study, out=out, how=how, overwrite=overwrite)


def run_verb(
    study: str = typer.Argument(..., help="A study file (YAML), or the name of a recipe (see `wazuka recipes`)."),
    out: Path = typer.Option(..., "--out", help="Run folder; the same command goes on where it stopped."),
    dataset: Path | None = typer.Option(None, "--dataset", help="Dataset folder, instead of the file's."),
    workers: int = typer.Option(1, "--workers", help="Processes on this machine."),
    scheduler: str | None = typer.Option(None, "--scheduler", help="Address of a Dask scheduler, as tcp://host:8786."),
    device: str = typer.Option("auto", "--device", help="auto, cpu or cuda."),
    cache: Path | None = typer.Option(None, "--cache", help="Cache folder."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace another study's run in this folder."),
) -> int:
    """Run a study file or a recipe.

    Example: wazuka run study.yaml --out runs/study --workers 2
    """
    from wazuka.study.recipes import study_path, threads_of

    if workers < 1:
        raise ConfigError(f"--workers is {workers}; give 1 or more.")
    path = study_path(study)
    count = threads_of(path)
    flow.fix_threads(count)
    from wazuka.study.config import read_study

    resolved = read_study(path, dataset=None if dataset is None else dataset.resolve())
    how = flow.settings(device=device, cache=cache, computing_threads=count)
    return flow.complete(resolved, out=out, how=how, workers=workers, scheduler=scheduler, overwrite=overwrite)


def report(
    runs: list[Path] = typer.Argument(..., help="One run folder, or several to set side by side."),
    lang: str | None = typer.Option(None, "--lang", help="en or ja; both are written by default."),
) -> None:
    """Write a run's report again from its folder; the images are not needed.

    Example: wazuka report runs/mitosis --lang ja
    """
    from wazuka.report.build import write_joint_report, write_report

    page = write_report(runs[0], lang=lang) if len(runs) == 1 else write_joint_report(runs, lang=lang)
    print(f"Report: {page}")

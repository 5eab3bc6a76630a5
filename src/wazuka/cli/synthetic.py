"""Verbs on synthetic images: `synthesize`, `audit`."""

from __future__ import annotations

from pathlib import Path

import typer

from wazuka.cli import flow


def register(app: typer.Typer) -> None:
    """Add this file's verbs to the command line."""
    app.command()(synthesize)
    app.command()(audit)


def synthesize(
    method: str = typer.Argument(..., help="Name of a synthesizer (see `wazuka methods list`)."),
    dataset: Path = typer.Argument(..., help="A labeled dataset folder; the generator learns from all of it."),
    out: Path = typer.Option(..., "--out", help="Folder of the new dataset."),
    count: int | None = typer.Option(
        None, "--count", help="Images of all classes together; default as many as labeled."
    ),
    preset: str = typer.Option("standard", "--preset", help="smoke, quick, standard or paper."),
    crop: int | None = typer.Option(None, "--crop", help="Central crop in pixels, before anything else."),
    size: int = typer.Option(64, "--size", help="Pixels a side of the images."),
    backbone: str = typer.Option("resnet18", "--backbone", help="Frozen network that compares images."),
    truncation: float = typer.Option(1.0, "--truncation", help="Below 1: likelier images, less diverse ones."),
    seed: int = typer.Option(0, "--seed", help="Of all randomness."),
    threads: int = typer.Option(2, "--threads", help="Computing threads."),
    device: str = typer.Option("auto", "--device", help="auto, cpu or cuda."),
    cache: Path | None = typer.Option(None, "--cache", help="Cache folder."),
) -> None:
    """Train a generator on a labeled dataset and write a dataset of its images, without memorized ones.

    Example: wazuka synthesize msg-gan datasets/mitosis --out datasets/mitosis-synthetic --crop 64 --preset quick
    """
    flow.fix_threads(threads)
    from wazuka.data.manifest import load
    from wazuka.study.synthetic import make_dataset as making

    wishes = making.Wishes(
        method=method,
        count=count,
        preset=preset,
        crop=crop,
        size=size,
        backbone=backbone,
        truncation=truncation,
        seed=seed,
    )
    how = flow.settings(device=device, cache=cache, computing_threads=threads)
    done = making.make_dataset(load(dataset), out, wishes=wishes, settings=how)
    if done.blocked:
        print(f"Issue: {done.blocked} No image was written.")
        print(f"Generator: {out / making.GENERATOR}")
        return
    print(f"{done.images} images; {done.left_out} were found to be copies of training images and left out.")
    for note in done.notes:
        print(f"Note: {note}")
    print(f"Dataset: {out}")
    print(f"Next: wazuka audit --real {dataset} --synthetic {out} --out AUDIT")


def audit(
    real: Path = typer.Option(..., "--real", help="Dataset folder of real images."),
    synthetic: Path = typer.Option(..., "--synthetic", help="Dataset folder of synthetic images."),
    out: Path = typer.Option(..., "--out", help="Folder for checks, pictures and summary."),
    backbone: str = typer.Option(
        "resnet18", "--backbone", help="Frozen network whose features are compared; also inception or inception=FILE."
    ),
    as_json: bool = typer.Option(False, "--json", help="All results with all ids, for machines."),
    threads: int = typer.Option(2, "--threads", help="Computing threads."),
    device: str = typer.Option("auto", "--device", help="auto, cpu or cuda."),
    cache: Path | None = typer.Option(None, "--cache", help="Cache folder."),
) -> int:
    """Check synthetic images against real ones: copies, diversity, artifacts, bias, distance. Exit code 3 on an issue.

    Example: wazuka audit --real datasets/mitosis --synthetic datasets/mitosis-synthetic --out audit/
    """
    flow.fix_threads(threads)
    import json

    from wazuka.cli.datasets import print_checks
    from wazuka.data.manifest import load
    from wazuka.study.synthetic.audit_datasets import audit_datasets

    how = flow.settings(device=device, cache=cache, computing_threads=threads)
    done = audit_datasets(load(real), load(synthetic), out=out, backbone=backbone, settings=how)
    if as_json:
        print(json.dumps(done.checks, indent=1, ensure_ascii=False))
    else:
        print_checks(done.checks)
        print(f"Audit: {out / 'summary.md'}")
    return 3 if done.has_issue else 0

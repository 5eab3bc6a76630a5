"""The verb on images without labels: `pretrain`."""

from __future__ import annotations

from pathlib import Path

import typer

from wazuka.cli import flow


def register(app: typer.Typer) -> None:
    """Add this file's verb to the command line."""
    app.command()(pretrain)


def pretrain(
    method: str = typer.Argument(..., help="Name of a pretrainer (see `wazuka methods list`)."),
    dataset: Path = typer.Argument(..., help="A dataset folder; its labels, if any, are not looked at."),
    out: Path = typer.Option(..., "--out", help="Folder of the encoder; give it as `backbone:` of a study."),
    preset: str = typer.Option("standard", "--preset", help="smoke, quick, standard or paper."),
    backbone: str = typer.Option("resnet18", "--backbone", help="Network to start from."),
    weights: str = typer.Option("pretrained", "--weights", help="pretrained, or none for freshly drawn ones."),
    crop: int | None = typer.Option(None, "--crop", help="Central crop in pixels, before anything else."),
    size: int = typer.Option(224, "--size", help="Pixels a side of the images."),
    seed: int = typer.Option(0, "--seed", help="Of all randomness."),
    threads: int = typer.Option(2, "--threads", help="Computing threads."),
    device: str = typer.Option("auto", "--device", help="auto, cpu or cuda."),
    cache: Path | None = typer.Option(None, "--cache", help="Cache folder."),
) -> None:
    """Train an encoder on all images of a dataset, without labels; an interrupted training goes on.

    Example: wazuka pretrain fg-ssl datasets/mitosis --out encoders/mitosis --crop 64 --size 64 --preset quick
    """
    flow.fix_threads(threads)
    from wazuka.data.manifest import load
    from wazuka.study.make_encoder import Wishes, make_encoder

    wishes = Wishes(method=method, preset=preset, backbone=backbone, weights=weights, crop=crop, size=size, seed=seed)
    how = flow.settings(device=device, cache=cache, computing_threads=threads)
    encoder = make_encoder(load(dataset), out, wishes=wishes, settings=how)
    print(f"Encoder: {out} ({encoder.name})")
    image = f"{{crop: {crop}, size: {size}}}" if crop else f"{{size: {size}}}"
    print(f"Next: a study with `backbone: {out}` and `image: {image}`")

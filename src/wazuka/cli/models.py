"""Verbs on models: `predict`, `evaluate`, `backbones`."""

from __future__ import annotations

from pathlib import Path

import typer

from wazuka.cli import flow

backbones_app = typer.Typer(
    help="Backbones: what can be used, and how to add weights where there is no network.", rich_markup_mode=None
)


def register(app: typer.Typer) -> None:
    """Add this file's verbs to the command line."""
    app.command()(predict)
    app.command()(evaluate)
    app.add_typer(backbones_app, name="backbones")


def predict(
    model: Path = typer.Argument(..., help="Run folder, a folder under its trials/, or an artifact folder."),
    source: Path = typer.Argument(..., help="An image, a folder of images or volumes, or a dataset folder."),
    out: Path = typer.Option(..., "--out", help="Folder for the table of predictions."),
    explain: bool = typer.Option(False, "--explain", help="Also draw, per image, which part the prediction rests on."),
    device: str = typer.Option("auto", "--device", help="auto, cpu or cuda."),
    cache: Path | None = typer.Option(None, "--cache", help="Cache folder."),
) -> None:
    """Predict new images with a finished model; images that do not fit it are refused and listed.

    Example: wazuka predict runs/mitosis new-images/ --out predictions/
    """
    flow.fix_threads(2)
    from wazuka.study import predict as prediction

    how = flow.settings(device=device, cache=cache, computing_threads=2)
    table, refused = prediction.predict(prediction.open_model(model), source, out=out, settings=how, explain=explain)
    print(f"{len(table)} images predicted, {len(refused)} refused.")
    if len(refused):
        print(
            f"Refused, the first: {refused['id'].iloc[0]}: {refused['reason'].iloc[0]} (all in {out / 'refused.csv'})"
        )
    print(f"Predictions: {out / 'predictions.csv'}")


def evaluate(
    model: Path = typer.Argument(..., help="Run folder, a folder under its trials/, or an artifact folder."),
    dataset: Path = typer.Argument(..., help="A labeled dataset folder that the model has not seen."),
    out: Path = typer.Option(..., "--out", help="Folder for predictions, scores and summary."),
    device: str = typer.Option("auto", "--device", help="auto, cpu or cuda."),
    cache: Path | None = typer.Option(None, "--cache", help="Cache folder."),
) -> None:
    """Score a finished model on another site's labeled data, with intervals; refused if it has seen a patient of it.

    Example: wazuka evaluate runs/mitosis datasets/other-site --out external/
    """
    flow.fix_threads(2)
    from wazuka.data.manifest import load
    from wazuka.study import predict as prediction

    how = flow.settings(device=device, cache=cache, computing_threads=2)
    prediction.evaluate_model(prediction.open_model(model), load(dataset), out=out, settings=how)
    print((out / "summary.md").read_text(encoding="utf-8"), end="")
    print(f"Scores: {out / 'results.parquet'}")


@backbones_app.command(name="list")
def list_verb() -> None:
    """List the backbones with a card: size, license, commercial use, whether weights are gated, whether they are here.

    Example: wazuka backbones list
    """
    from wazuka.nn import backbones

    rows = backbones.listing()
    print("\t".join(rows[0]))
    for row in rows:
        print("\t".join("" if one is None else str(one) for one in row.values()))
    print("Any other timm model can be used by its name.")


@backbones_app.command()
def show(name: str = typer.Argument(..., help="Name of a backbone.")) -> None:
    """Show what must be known about one backbone: license, access, transform, dimensions, pooling, adapted layers.

    Example: wazuka backbones show uni
    """
    from wazuka.nn import backbones

    for key, value in backbones.show(name).items():
        print(f"{key}: {_in_words(value)}")


def _in_words(value: object) -> str:
    """A value on one line: lists and mappings without brackets, nothing for None."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={one}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(str(one) for one in value)
    return "" if value is None else str(value)


@backbones_app.command()
def add(
    name: str = typer.Argument(..., help="Name of the backbone that the file belongs to."),
    file: Path = typer.Argument(
        ..., help="Its weights: safetensors, a state dict (.bin, .pt, .pth), or an ONNX graph."
    ),
) -> None:
    """Add a backbone's weights from a file, for machines without a network; a file that does not fit is refused.

    Example: wazuka backbones add resnet18 resnet18.safetensors
    """
    from wazuka.nn import backbones

    print(f"Added: {backbones.add(name, file)}")

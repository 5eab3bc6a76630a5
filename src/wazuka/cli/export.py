"""The verb `export`: a finished model as one ONNX file."""

from __future__ import annotations

from pathlib import Path

import typer

from wazuka.cli import flow


def register(app: typer.Typer) -> None:
    """Add this file's verb to the command line."""
    app.command()(export)


def export(
    model: Path = typer.Argument(..., help="Run folder, a folder under its trials/, or an artifact folder."),
    out: Path = typer.Option(..., "--out", help="The file to write, NAME.onnx."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace a file that exists."),
) -> None:
    """Write a finished model as one ONNX graph, from pixels to probabilities; it is checked against the model first.

    Example: wazuka export runs/mitosis --out mitosis.onnx
    """
    flow.fix_threads(2)
    from wazuka.core.progress import say
    from wazuka.nn import export as exporting
    from wazuka.study.predict import open_model

    opened = open_model(model)
    done = exporting.export(opened.predictor, out, size=opened.transform.size, facts=opened.facts, overwrite=overwrite)
    licenses = opened.facts.get("licenses") or {}
    if licenses.get("commercial_use") != "yes":
        say(f"License of its backbone: {licenses.get('backbone', 'unknown')}; the file falls under it.")
    if opened.facts.get("kind") == "neighbors":
        say("The file holds the feature vectors of the training images; treat it like patient data.")
    print(f"Model: {done.path} ({done.megabytes:.1f} MB; probabilities equal to {done.difference:.1g})")

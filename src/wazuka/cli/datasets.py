"""Verbs on datasets: `import` and `check`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import typer


def register(app: typer.Typer) -> None:
    """Add this file's verbs to the command line."""
    app.command(name="import")(import_verb)
    app.command()(check)


def import_verb(
    source: Path = typer.Argument(..., help="Folder (or file) with the images; it is never written to."),
    out: Path = typer.Option(..., "--out", help="Dataset folder to make."),
    kind: str = typer.Option("auto", "--kind", help="auto, or the kind of source (see docs/import.md)."),
    table: Path | None = typer.Option(None, "--table", help="Table with one row per image; paths relative to SOURCE."),
    image: str | None = typer.Option(None, "--image", help="Column of image paths."),
    label: str | None = typer.Option(None, "--label", help="Column of labels."),
    mask: str | None = typer.Option(None, "--mask", help="Column of mask paths."),
    patient: str | None = typer.Option(None, "--patient", help="Column of patients."),
    domain: str | None = typer.Option(None, "--domain", help="Column of scanners, sites or other domains."),
    mask_classes: str | None = typer.Option(None, "--mask-classes", help="Names of mask values, as 1=liver,2=tumor."),
    positive: str | None = typer.Option(None, "--positive", help="The class that sensitivity is about."),
    patch: int | None = typer.Option(None, "--patch", help="Cut large images into patches of this side, in pixels."),
    patch_um: float | None = typer.Option(None, "--patch-um", help="Patches around annotations, side in microns."),
    stride: int | None = typer.Option(None, "--stride", help="Step between patches; default: the patch's side."),
    salt_file: Path | None = typer.Option(None, "--salt-file", help="File with the salt of patient pseudonyms."),
    max_corrupt: float = typer.Option(5.0, "--max-corrupt", help="Stop above this percentage of unreadable images."),
) -> None:
    """Turn a folder of images into a dataset: a table of what is where. Pixels are not copied.

    Example: wazuka import mitosis/ --table mitosis/labels.csv --image image --label label --patient patient --out ds/
    """
    from wazuka.data.importers.listing import ImportOptions, parse_mask_classes
    from wazuka.data.importing import import_dataset
    from wazuka.study.check import tables_of
    from wazuka.study.sources import summary_lines

    options = ImportOptions(
        kind=kind,
        table=table,
        image=image,
        label=label,
        mask=mask,
        patient=patient,
        domain=domain,
        mask_classes={} if mask_classes is None else parse_mask_classes(mask_classes),
        positive=positive,
        patch=patch,
        patch_um=patch_um,
        stride=stride,
        salt_file=salt_file,
        max_corrupt=max_corrupt,
    )
    dataset = import_dataset(source, out, options=options)
    for line in summary_lines(dataset):
        print(_shown(line))
    from wazuka import audit

    for one in audit.run_checks(tables_of(dataset)):
        if one.outcome in ("issue", "warning"):
            print(_shown(f"{one.outcome}: {one.code} {one.name}: {one.reason}"))
    print(f"Dataset: {out}")


def check(
    dataset: Path = typer.Argument(..., help="Dataset folder made by `wazuka import`."),
    as_json: bool = typer.Option(False, "--json", help="All results with all ids, for machines."),
    leakage: bool = typer.Option(True, "--leakage/--no-leakage", help="Measure what a naive split would hide."),
    cache: Path | None = typer.Option(None, "--cache", help="Cache folder."),
) -> int:
    """Check a dataset: broken files, duplicates, leaks, labels, identifying tags. Exits with 3 if one is an issue.

    Example: wazuka check datasets/mitosis --json
    """
    from wazuka.cli import flow

    flow.fix_threads(2)
    from wazuka.data.manifest import load
    from wazuka.study.check import check_dataset

    found = check_dataset(load(dataset), leakage=leakage and not as_json, cache=cache)
    if as_json:
        print(json.dumps(found.checks, indent=1, ensure_ascii=False))
    else:
        print_checks(found.checks)
        if found.leakage is not None:
            _print_leakage(found.leakage)
    return 3 if found.has_issue else 0


def print_checks(checks: list[dict[str, Any]]) -> None:
    """One record a line; a table on a terminal."""
    if not sys.stdout.isatty():
        for one in checks:
            print(
                "\t".join(
                    _shown(str(one[name])) for name in ("code", "outcome", "name", "count", "threshold", "reason")
                )
            )
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in ("code", "outcome", "check", "count", "what was found"):
        table.add_column(name, overflow="fold")
    colors = {"issue": "red", "warning": "yellow", "passed": "green"}
    for one in checks:
        outcome = one["outcome"]
        found = (one["code"], outcome, one["name"], str(one["count"]), _shown(one["reason"]))
        cells = [Text(cell) for cell in found]  # as it is: `[/]` in a file name is no markup
        cells[1].stylize(colors.get(outcome, "dim"))
        table.add_row(*cells)
    Console().print(table)


def _shown(text: str) -> str:
    """Text with its control characters written out: a file name must neither steer the terminal nor end a line."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _print_leakage(found: dict[str, Any]) -> None:
    print(f"Leakage certificate: {found['groups']} groups in {found['images']} images ({found['evidence']}).")
    inflation = found.get("inflation")
    if inflation is None:
        print(f"  {found['verdict']}.")
        return
    print(
        f"  The same probe scores {found['naive']:.3f} AUROC under a naive split and {found['grouped']:.3f} under the"
        f" grouped one: {inflation['estimate']:+.3f} (95 % interval {inflation['low']:+.3f} to {inflation['high']:+.3f},"
        f" {found['rounds']} pairs of splits): {found['verdict']}."
    )

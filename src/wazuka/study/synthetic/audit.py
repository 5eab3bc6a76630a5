"""Synthetic images against real ones: images become arrays, arrays become coded checks, figures and pictures.

For a study's generators (step `audit`) and for two datasets (`wazuka audit`). An audit reports; nothing is chosen by it.
That is why it may compare with test images too, which the record says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wazuka.audit.synthetic import Distance, Inputs, activation_maps, memorization, run_synthetic_checks
from wazuka.core.hashing import derive_seed
from wazuka.core.records import is_finished, read_json, write_json, write_table
from wazuka.evaluate.fidelity import DISTANCES, MIN_ROWS, Fidelity, fidelity, spatial_rows
from wazuka.nn import generators
from wazuka.study.context import Context, Settings, encoder_of, pixels_of
from wazuka.study.plan import Step, step_folder
from wazuka.study.rows import pretraining_rows
from wazuka.study.synthetic import audit_maps, audit_pictures, filtering
from wazuka.study.synthetic import images as synthetic_images
from wazuka.study.synthetic.audit_sides import Sides, features_of_side, pooled_features
from wazuka.study.synthetic.steps import rows_of

MOST_LARGE = 500
"""Images a side whose spectra are compared."""
MOST_ATTRIBUTE_VALUES = 12


def audit_generator(context: Context, step: Step, settings: Settings, folder: Path) -> dict[str, Any]:
    """Audit the unfiltered images of one generator of a study (as many as test images, with their class shares), and what
    the filter changed in every set of its images."""
    synthetic = context.plan.steps[step.args["synthetic"]]
    source = context.plan.steps[synthetic.args["generator"]]
    source_folder, made_folder = step_folder(context.run, source), step_folder(context.run, synthetic)
    assert source_folder is not None and made_folder is not None
    data = context.data
    seen = rows_of(context, source)
    trained = seen.rows[~seen.is_val]
    group = context.splits[step.args["repeat"], step.args["train_domain"]]
    held, what = _held_out(context, group, trained, train_domain=step.args["train_domain"])
    real = pd.concat([trained, held], ignore_index=True)
    counts = np.bincount(data.label_codes(held), minlength=len(data.classes))
    if len(held) < MIN_ROWS:
        counts = np.array(synthetic.args["test"], np.int64)
    generator = generators.load(source_folder)
    images = synthetic_images.make_images(generator, counts, testing=True, device=settings.device)
    cache = pixels_of(context, synthetic.args["pixels"], settings)
    numbers = real["row"].to_numpy(np.int64)
    names = [data.classes[one] for one in images.labels]
    sides = Sides(
        real=_with_attributes(context, real),
        synthetic=pd.DataFrame(
            {
                "id": [f"synthetic/{name}/{seed}" for name, seed in zip(names, images.seeds, strict=True)],
                "label": names,
                "seed": images.seeds,
            }
        ),
        training=np.arange(len(real)) < len(trained),
        real_pixels=cache.images(numbers).batch(np.arange(len(numbers))),
        synthetic_pixels=images.pixels,
        cache=cache,
        encoder=encoder_of(context, synthetic.args["encoder"]),
        attributes=_attributes(context),
    )
    seed = derive_seed(context.study.seed, "audit", source.key)
    pools, lost = _pools(context, step)
    sets = filtering.sets_of_pools(pools, generator, classes=data.classes, device=settings.device)
    found, _ = audit_sides(sides, folder=folder, settings=settings, seed=seed, sets=sets)
    record = read_json(made_folder / "record.json")
    if lost:
        found["synthetic_missing"] = f"without what the filter changed in {', '.join(lost)}, which failed"
    return found | {
        "strategy": step.args["strategy"],
        "budget": step.args["budget"],
        "repeat": step.args["repeat"],
        "train_domain": step.args["train_domain"],
        "generator": source.key,
        "compared_with": f"{len(trained)} training images and {len(held)} {what}",
        "filter": {name: record["memorization"][name] for name in ("flagged", "images", "filtered")},
        "collapsed": record["collapsed"],
    }


def _pools(context: Context, step: Step) -> tuple[dict[str, tuple[Path, dict[str, Any]]], list[str]]:
    """Folder and arguments of every step that keeps images of the generator, and the names of those that failed."""
    found, lost = {}, []
    for one in step.args["pools"]:
        pool = context.plan.steps[one]
        folder = step_folder(context.run, pool)
        if folder is not None and is_finished(folder):
            found[one] = folder, pool.args
        else:
            lost.append(pool.name)
    return found, lost


def _held_out(
    context: Context, group: pd.DataFrame, trained: pd.DataFrame, *, train_domain: str
) -> tuple[pd.DataFrame, str]:
    """Labeled images of the generator's own domains that it was not trained on, and what they are.

    Test images where these are of the same domains (an audit reports; it chooses no setting), else other training images:
    those of a left-out domain would show how domains differ.
    """
    data = context.data
    test = data.rows_of(group.loc[group["role"] == "test", "id"].tolist())
    test = test[test["label"].notna() & (test["source"] == 0)]
    if train_domain.startswith("not:"):
        test = test.head(0)
    elif train_domain != "all":
        test = test[test["domain"] == train_domain]
    if len(test):
        return test, "test images, which choose no setting"
    others = pretraining_rows(data, group, train_domain=train_domain)
    others = others[others["label"].notna() & ~others["patient"].isin(set(trained["patient"]))]
    return others, "other training images"


def _attributes(context: Context) -> tuple[str, ...]:
    dataset = context.data.main
    usable = dataset.usable
    return tuple(
        one for one in dataset.card.attributes if one in usable and 2 <= usable[one].nunique() <= MOST_ATTRIBUTE_VALUES
    )


def _with_attributes(context: Context, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the study's table with the dataset's attributes; an image without a patient is one of its own."""
    usable = context.data.main.usable.set_index("id")
    extra: dict[str, Any] = {
        name: usable.loc[rows["id"], name].astype("string").to_numpy() for name in _attributes(context)
    }
    return rows[["id", "patient", "label", "domain"]].assign(**extra).reset_index(drop=True)


def audit_sides(
    sides: Sides, *, folder: Path, settings: Settings, seed: int, sets: Sequence[filtering.ImageSet] = ()
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure, check and draw; writes `checks.json`, `memorized.parquet`, `grid.png`, `pairs.png` and `where.png` into
    `folder`.

    `sets` are the images that went through the filter: what it changed is measured for each.

    Returns:
        The record's entries (the checks in brief, the fidelity figures, the pictures' names), and the checks with all ids.
    """
    real, real_maps = features_of_side(sides, sides.real_pixels, settings)
    synthetic, own_maps = features_of_side(sides, sides.synthetic_pixels, settings)
    held = ~sides.training
    unseen = held if held.sum() >= 2 * synthetic_images.LEAST else np.ones_like(held)
    patients = sides.real["patient"].to_numpy()[unseen].tolist()
    figures = fidelity(real[unseen], synthetic, real_patients=patients, seed=seed)
    spatial: Fidelity | str = f"{sides.encoder_name} gives no feature maps"
    if real_maps is not None and own_maps is not None:
        spatial = fidelity(
            spatial_rows(real_maps[unseen]),
            spatial_rows(own_maps),
            real_patients=patients,
            seed=seed,
            metrics=("frechet",),
        )
    rng = np.random.default_rng(seed)
    real_large = np.sort(rng.choice(len(real), min(MOST_LARGE, len(real)), replace=False))
    own_large = np.sort(rng.choice(len(synthetic), min(MOST_LARGE, len(synthetic)), replace=False))
    inputs = Inputs(
        real=sides.real,
        synthetic=sides.synthetic,
        training=sides.training,
        real_pixels=synthetic_images.small(sides.real_pixels),
        synthetic_pixels=synthetic_images.small(sides.synthetic_pixels),
        real_features=real,
        synthetic_features=synthetic,
        real_large=sides.real_pixels[real_large],
        synthetic_large=sides.synthetic_pixels[own_large],
        real_large_rows=real_large,
        feature_maps=audit_maps.maps_of(sides, settings),
        fidelity=_distances(figures) or None,
        attributes=sides.attributes,
        seed=seed,
    )
    checks = [dataclasses.asdict(one) for one in run_synthetic_checks(inputs)]
    nearest = memorization.search(inputs)
    table = pd.concat([sides.synthetic.reset_index(drop=True), nearest.table], axis=1)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "checks.json", checks)
    write_table(folder / "memorized.parquet", table)
    pictures = audit_pictures.draw(sides, nearest, folder=folder, seed=seed)
    maps = activation_maps.drawable(inputs)
    if maps is not None:
        pictures |= audit_maps.draw_maps(maps, sides, folder=folder)
    record = {
        "checks": [
            {name: one[name] for name in ("code", "name", "outcome", "count", "threshold", "reason")} for one in checks
        ],
        "fidelity": dataclasses.asdict(figures),
        "fidelity_against": "held-out real images" if unseen is held else "all real images: too few are held out",
        "spatial_fidelity": dataclasses.asdict(spatial) if isinstance(spatial, Fidelity) else {"missing": spatial},
        "encoder": sides.encoder_name,
        "pictures": pictures,
        "filtering": _filtering(sets, sides, inputs, unseen, settings, seed=seed),
    }
    return record, checks


def _filtering(
    sets: Sequence[filtering.ImageSet],
    sides: Sides,
    inputs: Inputs,
    unseen: np.ndarray,
    settings: Settings,
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """What the filter changed in each set, measured where it left any image out."""
    assert inputs.real_features is not None and inputs.real_pixels is not None
    real = filtering.Real(
        features=inputs.real_features,
        small=inputs.real_pixels,
        labels=sides.real["label"].astype("string").fillna("").to_numpy(object),
        patients=sides.real["patient"].to_numpy(object),
        training=sides.training,
        unseen=unseen,
    )
    found = []
    for one in sets:
        facts = filtering.what_changes(one)
        if one.pixels is not None:
            features = pooled_features(sides, one.pixels, settings)
            small = synthetic_images.small(one.pixels)
            facts |= filtering.measure_change(one, features=features, small=small, real=real, seed=seed)
        found.append(facts)
    return found


def _distances(found: Fidelity) -> dict[str, Distance]:
    """The distances as the check wants them: both at the size of the halves, at which the floor was measured."""
    distances = {}
    for name in DISTANCES:
        if name in found.scores:
            one = found.scores[name]
            shift = one.matched - one.value
            distances[name] = Distance(one.matched, one.low + shift, one.high + shift, one.floor, one.floor_high)
    return distances

"""`wazuka pretrain`: train an encoder on all images of a dataset, without labels.

OUT is an artifact folder: the encoder (`encoder.json`, `encoder.safetensors`), `seen.parquet` and, last, `record.json`. Give
it as `backbone:` of a study; a study that tests on images seen here says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wazuka import pretrain
from wazuka.core.config import build
from wazuka.core.errors import ConfigError, DataError, unknown_name
from wazuka.core.hashing import derive_seed, make_key
from wazuka.core.progress import say
from wazuka.core.records import clear_unfinished, finish, is_finished, write_table, write_text
from wazuka.data.manifest import Dataset
from wazuka.data.pixels import build_pixels, pixels_key
from wazuka.data.transform import ImageTransform
from wazuka.nn import backbones, encoders
from wazuka.nn.encoders import Encoder
from wazuka.study.context import Settings
from wazuka.study.out_folder import KEY_FILE, check_out
from wazuka.study.rows import join_seen, rows_hash, seen_table
from wazuka.training.roles import PretrainTask, Runtime

PRESET = "standard"
SIZE = 224
"""Pixels a side where `--size` is not given."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user of `wazuka pretrain` may say.

    Attributes:
        method: Name of a pretrainer.
        preset: Settings of the method.
        backbone: Where to start from: a name, NAME=FILE, or an artifact folder.
        weights: "pretrained", or "none" to start from freshly drawn ones.
        crop, size: Image transform: central crop, then size. Give a study the same.
        seed: Of all randomness.
    """

    method: str
    preset: str = PRESET
    backbone: str = "resnet18"
    weights: str = "pretrained"
    crop: int | None = None
    size: int = SIZE
    seed: int = 0


def make_encoder(dataset: Dataset, out: Path, *, wishes: Wishes, settings: Settings) -> Encoder:
    """Pretrain on all usable images of a dataset; its labels are not looked at.

    An interrupted pretraining goes on where it stopped; a finished one of the same wishes is returned as it is.

    Raises:
        ConfigError, DataError: If a wish or the data do not fit.
    """
    out = Path(out)
    method = pretrain.METHODS[wishes.method]
    if wishes.preset not in method.presets:
        raise unknown_name("preset", wishes.preset, sorted(method.presets), where=f"wazuka pretrain {method.name}")
    config = build(method.config, method.presets[wishes.preset], where=f"wazuka pretrain {method.name}")
    image = {"size": wishes.size} | ({} if wishes.crop is None else {"crop": wishes.crop})
    transform = build(ImageTransform, image, where=f"wazuka pretrain {method.name}")
    transform.check(dataset.card.intensity)
    encoder = _encoder(wishes)
    if encoder.kind not in method.backbone_kinds:
        raise ConfigError(f"`{method.name}` trains the network, which a frozen {encoder.kind} file does not allow.")
    rows = dataset.usable
    if not len(rows):
        raise DataError(f"{dataset.folder} has no usable image; run `wazuka check` on it.")
    key = make_key(
        "pretrain", method.name, method.code_version, config, encoder.spec(), encoder.weights_hash,
        rows_hash(rows, labeled=False), pixels_key(dataset, transform), wishes.seed,
    )  # fmt: skip
    check_out(out, out, key, dataset)
    if is_finished(out):
        return encoders.load_encoder(out)
    pixels = build_pixels(dataset, transform, cache=Path(settings.cache), workers=settings.workers)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / KEY_FILE, key)  # kept when interrupted: says whose checkpoints lie here
    clear_unfinished(out)
    task = PretrainTask(
        name=key,
        images=pixels.images(np.arange(len(rows))),
        encoder=encoder,
        seed=derive_seed(wishes.seed, "pretrain", method.name),
        intensity=pixels.intensity,
        window=transform.window,
    )
    runtime = Runtime(device=settings.device, threads=settings.threads, folder=out, say=say)
    result = method.fit(task, config=config, runtime=runtime)
    saved = encoders.save_encoder(result.encoder, out, state=result.state)
    write_table(out / "seen.parquet", join_seen(seen_table(rows, labeled=False), *_seen_before(wishes)))
    record: dict[str, Any] = {"schema": 1, "step": "pretrain", "key": key, "backbone": saved.name}
    record |= {"config": {"method": method.name, "config": config}, "image": transform, "seed": wishes.seed}
    record |= {"license": saved.license, "commercial_use": saved.commercial_use, "images": len(rows)}
    record |= {"dataset": dataset.card.name, "fingerprint": dataset.card.fingerprint}
    record |= {"salt": dataset.card.imported.get("salt"), "notes": result.notes, "curves": result.curves}
    finish(out, record)
    (out / KEY_FILE).unlink()
    return saved


def _encoder(wishes: Wishes) -> Encoder:
    if wishes.weights not in ("pretrained", "none"):
        raise unknown_name("weights", wishes.weights, ["pretrained", "none"], where="--weights")
    seed = derive_seed(wishes.seed, "backbone weights")
    return backbones.resolve(wishes.backbone, weights=wishes.weights, seed=seed)  # type: ignore[arg-type]


def _seen_before(wishes: Wishes) -> list[Any]:
    """What the weights that the training starts from have seen, where they say so."""
    from wazuka.core.records import read_table
    from wazuka.study.provenance import seen_file

    found = seen_file(wishes.backbone, wishes.weights)
    if found is None:
        return []
    table = read_table(found)
    table["patient_hash"] = ""  # ids of another dataset do not mean the same here
    return [table]

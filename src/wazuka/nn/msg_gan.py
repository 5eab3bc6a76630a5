"""MSG-GAN's networks, and the generator that a training of them leaves behind.

Karnewar & Wang (2020), MSG-GAN: Multi-Scale Gradients for Generative Adversarial Networks (CVPR, arXiv:1903.06048), in
its ProGAN form: the generator gives an image at every resolution from 4 pixels up, the discriminator takes all of them,
so gradients reach every level at once. Lists of images go from the coarsest (4 pixels) to the finest.

Upsampling and the convolution behind it, and the linear map of an image into features (`fromRGB`) and the convolution
behind that, are computed as one convolution each; see `nn.equalized`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from wazuka.core.errors import ArtifactError, ConfigError, DataError
from wazuka.core.records import write_json
from wazuka.core.windows import DEFAULT_WINDOW, WINDOWS
from wazuka.nn.equalized import EqualizedConv, act, minibatch_deviation, pixel_norm, to_sphere
from wazuka.nn.generators import FILE, SCHEMA, TENSORS
from wazuka.nn.weights import read_state, write_state

Combine = Literal["simple", "lin-cat", "cat-lin"]
"""How the discriminator joins an image with the features from the finer level (the paper's phi), by concatenation (++):
image ++ features; linear(image) ++ features; linear(image ++ features)."""

SMALLEST, LARGEST = 32, 256
"""Sides that the networks are built for, powers of two."""
FULL_WIDTH_UP_TO = 32
"""Pixels up to which a level has `latent` channels; each finer one has half of the one before."""
CLASS_WEIGHT = 0.3
"""Length of a class's vector relative to the latent vector in a conditional generator; our choice: with equal lengths a short
training makes one image per class."""
SAMPLE_BATCH = 64


def width(side: int, latent: int) -> int:
    """Channels of the level of `side` pixels."""
    return latent if side <= FULL_WIDTH_UP_TO else latent * FULL_WIDTH_UP_TO // side


def sides(size: int) -> list[int]:
    """Sides of the pyramid, 4, 8, ..., size.

    Raises:
        ConfigError: If `size` is no power of two from 32 to 256.
    """
    if size not in (32, 64, 128, 256):
        raise ConfigError(f"`size` is {size}; give 32, 64, 128 or 256.")
    return [2**power for power in range(2, size.bit_length())]


class Generator(nn.Module):
    """Latent vectors (and classes) to images at every scale.

    Args:
        size: Side of the finest image.
        latent: L, length of the latent vector and width of the coarse levels.
        channels: Of the images, 1 or 3.
        classes: Above 0: one learned vector per class, brought to a sphere like the latent vector (of `CLASS_WEIGHT`
            times its radius) and put behind it; the first layer then has 2 L inputs.
    """

    def __init__(self, size: int, latent: int, *, channels: int = 3, classes: int = 0) -> None:
        super().__init__()
        self.latent = latent
        self.embedding = nn.Parameter(torch.randn(classes, latent)) if classes else None
        self.enlarge = EqualizedConv(2 * latent if classes else latent, latent, 4, transposed=True)
        widths = [width(side, latent) for side in sides(size)]
        before = [latent, *widths[:-1]]
        self.up = nn.ModuleList(EqualizedConv(a, b, 3) for a, b in zip(before[1:], widths[1:], strict=True))
        self.same = nn.ModuleList(EqualizedConv(one, one, 3) for one in widths)
        self.to_image = nn.ModuleList(EqualizedConv(one, channels, 1) for one in widths)

    def forward(
        self, latents: torch.Tensor, labels: torch.Tensor | None = None, *, truncation: float = 1.0
    ) -> list[torch.Tensor]:
        """Make images of latent vectors (B, L), drawn from N(0, 1), and classes (B,).

        Returns:
            Per level (B, channels, side, side), aimed at [-1, 1] without being held to it.
        """
        latents = to_sphere(latents) * truncation
        if self.embedding is not None:
            assert labels is not None, "a conditional generator needs labels"
            latents = torch.cat([latents, CLASS_WEIGHT * to_sphere(self.embedding[labels])], 1)
        features = act(self.enlarge.expand(latents[:, :, None, None]))
        features = pixel_norm(act(self.same[0](features)))
        images = [self.to_image[0](features)]
        for up, same, to_image in zip(self.up, self.same[1:], self.to_image[1:], strict=True):
            assert isinstance(up, EqualizedConv)
            features = pixel_norm(act(up.after_upsampling(features)))
            features = pixel_norm(act(same(features)))
            images.append(to_image(features))
        return images


class _Level(nn.Module):
    """One level of the discriminator: join the image with the finer level's features, two convolutions, halve.

    Args:
        side: Of the level, 8 or more.
        finest: Whether no features come from above; the image is then always mapped linearly.
    """

    def __init__(self, side: int, latent: int, *, channels: int, combine: Combine, finest: bool) -> None:
        super().__init__()
        self.linear, joined = _joint(width(side, latent), channels=channels, combine=combine, finest=finest)
        self.first = EqualizedConv(joined, width(side, latent), 3)
        self.second = EqualizedConv(width(side, latent), width(side // 2, latent) // 2, 3)

    def forward(self, image: torch.Tensor, features: torch.Tensor | None) -> torch.Tensor:
        parts = [image] if features is None else [image, features]
        if self.linear is None:
            hidden = self.first(torch.cat(parts, 1))
        else:
            parts.append(torch.ones_like(image[:, :1]))
            hidden = functional.conv2d(
                torch.cat(parts, 1), self.first.after_linear(self.linear), self.first.bias, padding=1
            )
        return functional.avg_pool2d(act(self.second(act(hidden))), 2)


def _joint(level_width: int, *, channels: int, combine: Combine, finest: bool) -> tuple[EqualizedConv | None, int]:
    """The linear map of a level's image, if it has one, and the channels that image and features have together."""
    half = level_width // 2
    if finest:
        return EqualizedConv(channels, level_width, 1), level_width
    if combine == "simple":
        return None, channels + half
    if combine == "lin-cat":
        return EqualizedConv(channels, half, 1), level_width
    return EqualizedConv(channels + half, level_width, 1), level_width


class Discriminator(nn.Module):
    """Images at every scale (and classes) to one score: high for real ones.

    With classes it is a projection discriminator (Miyato & Koyama 2018, arXiv:1802.05637): the last features' product
    with a learned vector of the class is added to the score. The batch's deviation is then taken within each class.

    Args:
        size, latent, channels, classes: As of the generator.
        combine: The paper's phi. The features that come from a finer level have half of the next level's width.
        deviation: Whether the batch's standard deviation is appended before the last block. Without it images are
            scored independently of each other, as per-sample gradients need.
    """

    def __init__(
        self,
        size: int,
        latent: int,
        *,
        channels: int = 3,
        classes: int = 0,
        combine: Combine = "lin-cat",
        deviation: bool = True,
    ) -> None:
        super().__init__()
        assert combine in get_args(Combine), combine
        self.combine: Combine = combine
        self.deviation = deviation
        fine = list(reversed(sides(size)[1:]))
        self.levels = nn.ModuleList(
            _Level(side, latent, channels=channels, combine=combine, finest=side == size) for side in fine
        )
        self.linear, joined = _joint(latent, channels=channels, combine=combine, finest=False)
        self.last = EqualizedConv(joined + int(deviation), latent, 3)
        self.dense = EqualizedConv(latent, latent, 4)
        self.score = EqualizedConv(latent, 1, 1)
        self.embedding = nn.Parameter(torch.randn(classes, latent)) if classes else None

    def forward(self, images: Sequence[torch.Tensor], labels: torch.Tensor | None = None) -> torch.Tensor:
        """Score a batch of pyramids (coarsest image first).

        Args:
            labels: (B,); or (B, k), classes under which each image is scored, its own first.

        Returns:
            float32, (B,) or (B, k).
        """
        features: torch.Tensor | None = None
        for level, image in zip(self.levels, reversed(images[1:]), strict=True):
            features = level(image, features)
        assert features is not None
        features = self._join(images[0], features)
        if self.deviation:
            own = labels if labels is None or labels.ndim == 1 else labels[:, 0]
            features = minibatch_deviation(features, own if self.embedding is not None else None)
        features = act(self.dense(act(self.last(features))))
        scores = self.score(features)[:, 0, 0, 0].float()
        if self.embedding is not None:
            assert labels is not None, "a conditional discriminator needs labels"
            last = features[:, :, 0, 0].float()
            if labels.ndim == 2:
                last, scores = last[:, None], scores[:, None]
            scores = scores + (last * self.embedding[labels]).sum(-1) * self.score.scale
        return scores

    def _join(self, image: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        if self.linear is None:
            return torch.cat([image, features], 1)
        if self.combine == "lin-cat":
            return torch.cat([self.linear(image), features], 1)
        return self.linear(torch.cat([image, features], 1))


def draw_latents(seeds: np.ndarray, latent: int) -> torch.Tensor:
    """Draw each image's own latent vector: (n, latent) float32, row i a function of `seeds[i]` alone.

    NumPy's `RandomState` keeps its stream for good and takes seeds of any size; torch's generator on the CPU uses the
    lowest 32 bits of a seed only, so that different seeds could give equal images.
    """
    rows = np.empty((len(seeds), latent), np.float32)
    for row, seed in zip(rows, seeds.tolist(), strict=True):
        bits = np.random.MT19937(np.random.SeedSequence(seed))
        row[:] = np.random.RandomState(bits).standard_normal(latent)
    return torch.from_numpy(rows)


def resize(images: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Bring images (B, C, H, W) to (height, width): by the mean over areas where both shrink, else bicubic."""
    before = tuple(images.shape[-2:])
    if before == shape:
        return images
    if shape[0] <= before[0] and shape[1] <= before[1]:
        return functional.interpolate(images, shape, mode="area")
    return functional.interpolate(images, shape, mode="bicubic", align_corners=False, antialias=True)


def stored_range(intensity: str, window: str | None) -> tuple[float, float]:
    """Stored values of -1 and 1: 0 and 255, or the ends of the window of Hounsfield units."""
    if intensity != "hounsfield":
        return 0.0, 255.0
    center, extent = WINDOWS[window or DEFAULT_WINDOW]
    return center - extent / 2, center + extent / 2


@dataclass(frozen=True, kw_only=True, eq=False)
class MsgGanGenerator:
    """A trained generator, or one per class.

    Attributes:
        classes: Class names; empty where images are made without labels.
        shape: (height, width, channels) of the images that it gives; those of its networks are resized to it.
        intensity: As in the dataset's card.
        window: Window of Hounsfield units, for CT: values beyond it are never made.
        size, latent: Of the networks.
        conditional: Whether the one network takes the class.
        states: State dicts of `Generator` on the CPU: one, or one per class.
    """

    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    intensity: str
    window: str | None
    size: int
    latent: int
    conditional: bool
    states: tuple[Mapping[str, torch.Tensor], ...]
    _networks: dict[str, list[Generator]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        assert len(self.states) in (1, len(self.classes)), (len(self.states), self.classes)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_networks": {}}

    def build(self) -> list[Generator]:
        """Build the networks, on the CPU.

        Raises:
            ArtifactError: If the tensors do not fit them.
        """
        networks = []
        for state in self.states:
            with torch.device("meta"):
                network = Generator(
                    self.size,
                    self.latent,
                    channels=self.shape[2],
                    classes=len(self.classes) if self.conditional else 0,
                )
            try:
                network.load_state_dict({name: one.clone() for name, one in state.items()}, assign=True)
            except RuntimeError as error:
                raise ArtifactError(f"The saved generator does not fit ({' '.join(str(error).split())}).") from error
            networks.append(network.requires_grad_(False).to(memory_format=torch.channels_last))
        return networks

    def sample(
        self, labels: np.ndarray, seeds: np.ndarray, *, truncation: float = 1.0, device: str = "cpu"
    ) -> np.ndarray:
        """Make one image per label and seed; see `nn.generators.Generator`.

        Raises:
            DataError: If labels and seeds differ in number, a label is no class or a seed is negative.
            ConfigError: If the truncation is not in (0, 1].
        """
        labels, seeds = np.asarray(labels), np.asarray(seeds)
        if len(labels) != len(seeds):
            raise DataError(f"{len(labels)} labels and {len(seeds)} seeds are given; give one of each per image.")
        if not 0 < truncation <= 1:
            raise ConfigError(f"`truncation` is {truncation:g}; give a number above 0 and at most 1.")
        if len(seeds) and seeds.min() < 0:
            raise DataError(f"Seed {seeds.min()} is negative; give seeds from 0 on.")
        if self.classes and len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            wrong = labels.min() if labels.min() < 0 else labels.max()
            raise DataError(
                f"Label {wrong} is no class; give 0 to {len(self.classes) - 1} ({', '.join(self.classes)})."
            )
        if device not in self._networks:
            self._networks[device] = [one.to(device) for one in self.build()]
        networks = self._networks[device]
        result = np.empty((len(labels), *self.shape), np.int16 if self.intensity == "hounsfield" else np.uint8)
        for number, network in enumerate(networks):
            rows = np.flatnonzero(labels == number) if len(networks) > 1 else np.arange(len(labels))
            for start in range(0, len(rows), SAMPLE_BATCH):
                part = rows[start : start + SAMPLE_BATCH]
                latents = draw_latents(seeds[part], self.latent).to(device)
                given = torch.from_numpy(labels[part].astype(np.int64)).to(device) if self.conditional else None
                with torch.inference_mode():
                    result[part] = self._store(network(latents, given, truncation=truncation)[-1])
        return result

    def _store(self, images: torch.Tensor) -> np.ndarray:
        """From [-1, 1] to pixels as the cache keeps them, (B, height, width, channels)."""
        low, high = stored_range(self.intensity, self.window)
        unit = (resize(images.float(), self.shape[:2]).clamp(-1, 1) + 1) / 2
        values = (low + unit * (high - low)).round().permute(0, 2, 3, 1).cpu().numpy()
        return values.astype(np.int16 if self.intensity == "hounsfield" else np.uint8)

    def save(self, folder: Path) -> None:
        """Write `generator.json` and the tensors into `folder`."""
        folder = Path(folder)
        tensors = {f"{number}.{name}": one for number, state in enumerate(self.states) for name, one in state.items()}
        write_state(folder / TENSORS, tensors)
        own = ("classes", "shape", "intensity", "window", "size", "latent", "conditional")
        facts = {name: getattr(self, name) for name in own} | {"networks": len(self.states)}
        facts["class_weight"] = CLASS_WEIGHT if self.conditional else None
        write_json(folder / FILE, {"schema": SCHEMA, "kind": "msg-gan"} | facts)

    @classmethod
    def from_folder(cls, folder: Path, facts: Mapping[str, Any]) -> MsgGanGenerator:
        """Read what `save` wrote; `facts` is the content of `generator.json`.

        Raises:
            ArtifactError: If a part is missing or does not fit.
        """
        if facts.get("conditional") and facts.get("class_weight") != CLASS_WEIGHT:
            raise ArtifactError(
                f"{folder / FILE} has `class_weight` {facts.get('class_weight')}, these networks have {CLASS_WEIGHT}: its images would"
                " be others; train the generator again."
            )
        tensors = read_state(Path(folder) / TENSORS)
        try:
            own = {name: facts[name] for name in ("intensity", "window", "size", "latent", "conditional")}
            states = tuple(
                {name.removeprefix(f"{number}."): one for name, one in tensors.items() if name.startswith(f"{number}.")}
                for number in range(facts["networks"])
            )
            height, width_, channels = facts["shape"]
            result = cls(classes=tuple(facts["classes"]), shape=(height, width_, channels), states=states, **own)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{folder / FILE} is damaged ({error}); make the folder again.") from error
        result.build()
        return result

"""The roles: what a technique is given, what it gives back, how it declares itself. Read this before adding one.

A technique is one file with a frozen dataclass `Config` and one object `METHOD` (an `Adapter`, a `Pretrainer` or a
`Synthesizer`) at its end, plus one entry in its package's `METHODS` registry. Techniques never import each other; they meet on disk. Pixels
become a network's input through `nn.normalize`, with the task's `intensity` and `window`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wazuka.data.views import Images, LabeledImages

if TYPE_CHECKING:
    import torch

    from wazuka.nn.backbones import Encoder
    from wazuka.nn.generators import Generator
    from wazuka.nn.predictors import Predictor


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where a step runs and where it may keep things.

    Attributes:
        device: "cpu" or "cuda" (with an index).
        threads: Computing threads of this process.
        folder: The step's own folder: checkpoints named `checkpoint*` survive an interruption, all else is cleared.
        say: Takes one line of progress.
    """

    device: str
    threads: int
    folder: Path
    say: Callable[[str], None] = field(default=lambda line: None)


TrainOn = Literal["real", "synthetic", "real+synthetic", "synthetic-then-real"]
"""What a predictor is trained on; `synthetic-then-real` begins with synthetic images and ends with real ones."""


@dataclass(frozen=True, kw_only=True)
class SyntheticRows:
    """Synthetic images beside a budget, made by a generator that saw rows of the same budget only.

    Attributes:
        images: Their pixels, m rows; same shape, intensity and transform as the real ones.
        labels: Class index that each was made for, int64 (m,).
        features: Their frozen features, (m, dim) float32, for methods with `input="features"`; else None.
        train_on: What is trained on. "synthetic": real rows then serve standardization and choices (penalty,
            threshold, stopping) only.
        weight: Total weight of the synthetic rows relative to that of the real ones (the study's `ratio`).
    """

    images: Images
    labels: np.ndarray
    features: np.ndarray | None
    train_on: TrainOn
    weight: float


@dataclass(frozen=True, kw_only=True)
class AdaptTask:
    """All that an adapter may see in one trial. Test rows are not in it, by construction.

    Attributes:
        name: The trial's key.
        labeled: The rows of the budget, with labels.
        unlabeled: The trial's other training images, without labels; None unless the method is `semi_supervised`.
        unlabeled_features: Their frozen features, for methods with `input="features"`; else None.
        classes: Class names; their order is that of labels and probability columns.
        positive: Index of the positive class (two classes), else None.
        encoder: The backbone to start from.
        features: Frozen features of the labeled rows, (n, dim) float32, for methods with `input="features"`; else None.
            Of train and val rows alike, in the order of `labeled`.
        inner_split: Whether the budget allows choices on held-out parts of it (5 patients per class or more):
            cross-validated penalty and threshold, early stopping on `labeled.is_val`. Without it: fixed defaults.
        seed: Seed of all randomness of this trial.
        intensity: Of the images, as in the dataset's card; with `window` it says how pixels become a network's input.
        window: Window of Hounsfield units (`core.windows`), for CT.
        remedies: Against domain shift, of those that the method declares: `stain-jitter` and `randaugment` change
            training images, `domain-balanced` draws each domain equally often, `test-batchnorm` is the predictor's.
        synthetic: Synthetic images to train on, for methods that declare `synthetic`; None: real ones only.
    """

    name: str
    labeled: LabeledImages
    classes: tuple[str, ...]
    positive: int | None
    encoder: Encoder
    inner_split: bool
    seed: int
    unlabeled: Images | None = None
    features: np.ndarray | None = None
    unlabeled_features: np.ndarray | None = None
    intensity: str = "rgb8"
    window: str | None = None
    remedies: tuple[str, ...] = ()
    synthetic: SyntheticRows | None = None


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What an adapter gives back for one task.

    Attributes:
        predictor: Ready to predict; the study saves it. That of a method with `input="features"` also has
            `predict_features` (`nn.predictors.FeaturePredictor`); `LinearHead` carries any linear rule on features.
        threshold: Decision threshold for the positive class (two classes), chosen inside the budget; 0.5 if not chosen.
        notes: Plain values for the record: penalty chosen and why, steps run, best step, certificate, defaults used.
        curves: Name -> list of (step, value), for the report's training curves.
    """

    predictor: Predictor
    threshold: float = 0.5
    notes: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Declares a technique that turns labeled images and a backbone into a predictor.

    Attributes:
        name: As in the study file.
        config: The technique's `Config` class.
        summary: One line for `wazuka methods list`.
        code_version: Raised by hand when the numbers change; part of every key.
        input: "features" (frozen backbone, computed once per dataset) or "pixels" (trains the network).
        fit: `fit(tasks, *, config, runtime) -> list[Fitted]`, one result per task in order. Batched methods get all
            trials of a strategy and train domain at once, others a list of one.
        batched: Whether `fit` gains from all tasks at once. Tasks must not influence each other's result.
        semi_supervised: Whether it uses `unlabeled`.
        tasks: The tasks it can do.
        backbone_kinds: Encoder kinds it can work with; "onnx" only where the network stays frozen.
        remedies: Remedies for domain shift (study key `remedies`) that it honors.
        synthetic: Whether it can train on synthetic images (`AdaptTask.synthetic`), in every way of `TrainOn`.
        cites: References as "Authors (year). Title. Venue. Identifier." for `wazuka cite`.
        images_trained: `images_trained(config, labels) -> int`: images that one training passes forward and backward
            through the network, for the estimate of time; None where no network is trained.
    """

    name: str
    config: type
    summary: str
    code_version: int
    input: Literal["features", "pixels"]
    fit: Callable[..., list[Fitted]]
    batched: bool = False
    semi_supervised: bool = False
    tasks: tuple[str, ...] = ("classification",)
    backbone_kinds: tuple[str, ...] = ("torch", "onnx")
    remedies: tuple[str, ...] = ()
    synthetic: bool = False
    cites: tuple[str, ...] = ()
    images_trained: Callable[[Any, int], int] | None = None

    def __call__(self, tasks: Sequence[AdaptTask], *, config: Any, runtime: Runtime) -> list[Fitted]:
        """Run the method and hold it to its side of the seam: one result per task."""
        assert self.synthetic or all(one.synthetic is None for one in tasks), f"{self.name} ignores synthetic images"
        fitted = self.fit(tasks, config=config, runtime=runtime)
        assert len(fitted) == len(tasks), f"{self.name} returned {len(fitted)} results for {len(tasks)} tasks"
        return fitted


@dataclass(frozen=True, kw_only=True)
class PretrainTask:
    """All that a pretrainer may see: training images without labels. Labels and test rows are not in it.

    Attributes:
        name: The step's key.
        images: The training images of one split, of its own train domains.
        encoder: The backbone to start from.
        seed: Seed of all randomness.
        intensity: Of the images, as in the dataset's card.
        window: Window of Hounsfield units, for CT.
    """

    name: str
    images: Images
    encoder: Encoder
    seed: int
    intensity: str = "rgb8"
    window: str | None = None


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """What a pretrainer gives back; the study saves it as an encoder.

    Attributes:
        encoder: Describes the network that `state` fits: the task's, unless the method changes its arguments.
        state: New weights of that network, on the CPU: `network.state_dict()`, without heads used only in pretraining.
            What else the method wants to keep, it writes into `runtime.folder`, which becomes the artifact.
        notes: Plain values for the record.
        curves: Name -> list of (step, value).
    """

    encoder: Encoder
    state: Mapping[str, torch.Tensor]
    notes: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Pretrainer:
    """Declares a technique that turns images without labels into an encoder.

    Attributes:
        fit: `fit(task, *, config, runtime) -> Pretrained`.
        images_trained: `images_trained(config, images) -> int`: images that one pretraining on so many passes forward
            and backward through the network, for the estimate of time.
        backbone_kinds: Encoder kinds it can work with.
        presets: Name -> settings, for `wazuka pretrain --preset` (smoke, quick, standard, paper).
        Others: as in `Adapter`.
    """

    name: str
    config: type
    summary: str
    code_version: int
    fit: Callable[..., Pretrained]
    backbone_kinds: tuple[str, ...] = ("torch",)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cites: tuple[str, ...] = ()
    images_trained: Callable[[Any, int], int] | None = None


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """Differential privacy asked of a training (study key `dp`): one image more or less changes little.

    Attributes:
        epsilon: Budget, above 0.
        delta: Chance with which the bound may fail, in (0, 1); well below 1 / images.
    """

    epsilon: float
    delta: float


@dataclass(frozen=True, kw_only=True)
class SynthesisTask:
    """All that a synthesizer may see: the images of one budget (or of its generator half), with labels if it needs them.

    Attributes:
        name: The step's key.
        images: The images, n rows.
        labels: Class index per row, int64 (n,); None where the method needs no labels, which are then withheld.
        patients: Patient code per row, int64 (n,).
        is_val: Rows that monitors and stopping may compare with and training must leave out, bool (n,); all False where
            the budget allows no inner split: steps are then fixed.
        masks: Masks of the same rows, for methods that need them.
        classes: Class names; labels are indices into them.
        encoder: Frozen network of the strategy, for feature distances; never trained here.
        seed: Seed of all randomness.
        intensity, window: As in `AdaptTask`.
        privacy: Differential privacy asked for; None: none.
    """

    name: str
    images: Images
    labels: np.ndarray | None
    patients: np.ndarray
    is_val: np.ndarray
    masks: Images | None
    classes: tuple[str, ...]
    encoder: Encoder
    seed: int
    intensity: str = "rgb8"
    window: str | None = None
    privacy: Privacy | None = None


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What a synthesizer gives back; the study saves the generator.

    Attributes:
        generator: Makes images from labels and seeds (`nn.generators.Generator`).
        collapsed: Why the training was stopped as useless, one sentence; None where it was not. The generator then is
            its last good state.
        notes: Plain values for the record.
        curves: Name -> list of (step, value).
        pictures: Name -> PNG file in `runtime.folder`, for the report.
    """

    generator: Generator
    collapsed: str | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Synthesizer:
    """Declares a technique that turns few images into a generator of more.

    Attributes:
        fit: `fit(task, *, config, runtime) -> Generated`.
        needs: What of the images it is handed: "none" (pixels only), "labels" or "masks".
        presets: Name -> settings, for `wazuka synthesize --preset` (smoke, quick, standard, paper).
        private: Whether it can train under differential privacy (`SynthesisTask.privacy`).
        check_private: `check_private(config)`: refuses, by a `ConfigError`, settings that have no private form.
        expected_seconds: `expected_seconds(config, images, shape, device) -> float`: of one training on so many images of
            a shape (height, width, channels), measured on a step or two, for the estimate of time.
        Others: as in `Adapter`.
    """

    name: str
    config: type
    summary: str
    code_version: int
    fit: Callable[..., Generated]
    needs: Literal["none", "labels", "masks"]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    private: bool = False
    check_private: Callable[[Any], None] | None = None
    cites: tuple[str, ...] = ()
    expected_seconds: Callable[[Any, int, tuple[int, int, int], str], float] | None = None

"""Features of the Inception network of the published Fréchet distances (Szegedy et al. 2015, weights of 2015-12-05).

The network is torch-fidelity's, which agrees with the original TensorFlow graph; its weights (95 MB, Apache-2.0) are the
user's file or a download. They are read without running code that a file may hold, and checked against their hash.
Natural-image features are a convention, not a judge of medical images: give other encoders beside it.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wazuka.core.errors import ArtifactError, ConfigError, DataError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from wazuka.nn.rows import ImageRows

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
POOLED = "2048"
SPATIAL = "Mixed_6d"
"""The layer of sFID (Nash et al. 2021): the first 1 x 1 branch of TensorFlow's `mixed_6`, after its rectifier."""
SPATIAL_CHANNELS = 7
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class InceptionFeatures:
    """Features of n images.

    Attributes:
        pooled: After the last average pooling, (n, 2048) float32: for Fréchet and kernel distances, precision, recall.
        spatial: First 7 channels of a middle layer, (n, 7, 17, 17) float32: `evaluate.fidelity.spatial_rows` flattens it.
    """

    pooled: np.ndarray
    spatial: np.ndarray


def weights_file() -> Path:
    """Where the downloaded weights lie on this machine, whether or not they are there: torch's hub folder."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / URL.rpartition("/")[2]


def load_inception(*, weights: Path | None = None, device: str = "cpu") -> nn.Module:
    """Build the network in evaluation mode.

    Args:
        weights: A file of these weights, PyTorch's or safetensors; None takes the published ones from torch's hub folder,
            after downloading them there if need be.
        device: Where it runs.

    Raises:
        ConfigError: If torch-fidelity is not installed.
        ArtifactError: If the weights are not there and cannot be downloaded, are damaged, or do not fit.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ConfigError(
            "Inception features need torch-fidelity, which is not installed; run `pip install 'wazuka[fidelity]'`, or choose another encoder."
        ) from error
    import torch

    from wazuka.nn.weights import read_checkpoint, read_state

    path = _published() if weights is None else Path(weights)
    state = read_state(path) if path.suffix == ".safetensors" else read_checkpoint(path)
    with tempfile.TemporaryDirectory() as folder:
        # torch-fidelity unpickles whatever file it is given, so it is given one that we wrote ourselves.
        clean = Path(folder) / "weights.pth"
        torch.save(state, clean)
        try:
            network = FeatureExtractorInceptionV3("inception", [POOLED], feature_extractor_weights_path=str(clean))
        except RuntimeError as error:
            raise ArtifactError(
                f"{path} does not hold the weights of this Inception ({_first_fault(error)}); take {URL}."
            ) from error
    return network.to(device)


def inception_features(
    images: ImageRows, *, weights: Path | None = None, device: str = "cpu", batch: int = BATCH
) -> InceptionFeatures:
    """Compute the features of images of any size; the network resizes them to 299 x 299 as the original graph does.

    Args:
        images: uint8 with three channels, or one, which is repeated.
        weights, device: As in `load_inception`.
        batch: Images at a time.

    Raises:
        ConfigError, ArtifactError: As in `load_inception`.
        DataError: If the images are not uint8, or have other than one or three channels.
    """
    import torch

    from wazuka.nn.features import iterate_batches

    channels = images.shape[2]
    if channels not in (1, 3):
        raise DataError(f"The images have {channels} channels; Inception takes one or three.")
    network = load_inception(weights=weights, device=device)
    maps: list[torch.Tensor] = []

    def keep(_: nn.Module, __: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        maps.append(output[:, :SPATIAL_CHANNELS].detach())

    hook = network.get_submodule(f"{SPATIAL}.branch1x1").register_forward_hook(keep)
    pooled, spatial = [np.empty((0, 2048), np.float32)], [np.empty((0, SPATIAL_CHANNELS, 17, 17), np.float32)]
    try:
        for pixels in iterate_batches(images, batch=batch):
            if pixels.dtype != np.uint8:
                raise DataError(
                    f"The images are {pixels.dtype}; Inception takes uint8, so window them to 0..255 first."
                )
            inputs = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
            maps.clear()
            with torch.inference_mode():
                pooled.append(network(inputs)[0].float().cpu().numpy())
            spatial.append(maps[0].float().cpu().numpy())
    finally:
        hook.remove()
    return InceptionFeatures(pooled=np.concatenate(pooled), spatial=np.concatenate(spatial))


def _published() -> Path:
    """The published weights on this machine, downloaded if they are not there."""
    path = weights_file()
    if path.is_file():
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != SHA256:
            raise ArtifactError(f"{path} is damaged (SHA-256 {found[:8]}..., not {SHA256[:8]}...); delete it.")
        return path
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(URL, str(path), hash_prefix=SHA256, progress=False)
    except (OSError, RuntimeError) as error:  # no connection, an answer of the server, or another hash
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ArtifactError(
            f"The Inception weights are neither at {path} nor to be had ({reason}); put the file {URL} there, or choose another encoder."
        ) from error
    return path


def _first_fault(error: RuntimeError) -> str:
    """What `load_state_dict` says first about names or shapes, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[1] if len(lines) > 1 else lines[0]
    return text if len(text) <= 120 else f"{text[:117]}..."

"""Inception features, on weights drawn at random: torch-fidelity's own forward pass is the reference; no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch_fidelity import feature_extractor_inceptionv3 as library

from wazuka.core.errors import ArtifactError, DataError
from wazuka.evaluate.fidelity import spatial_rows
from wazuka.nn import inception
from wazuka.nn.rows import ArrayImages


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the right names and shapes, as a state dict."""
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save({}, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        network = library.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(path))
    torch.save(network.state_dict(), path)
    return path


def pictures(channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(3, 40, 32, channels), dtype=np.uint8)


def test_features_are_those_of_the_library_and_a_grey_image_is_repeated(weights):
    array = pictures(1)
    found = inception.inception_features(ArrayImages(array), weights=weights, batch=2)
    assert found.pooled.shape == (3, 2048)
    assert found.spatial.shape == (3, 7, 17, 17)
    assert found.pooled.dtype == found.spatial.dtype == np.float32
    assert spatial_rows(found.spatial).shape == (3, 2023)
    peer = library.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(weights))
    middle = []
    peer.Mixed_6d.branch1x1.register_forward_hook(lambda *given: middle.append(given[2]))
    rgb = torch.from_numpy(np.repeat(array, 3, axis=3)).permute(0, 3, 1, 2).contiguous()
    (expected,) = peer(rgb)
    scale = expected.abs().mean().item()
    np.testing.assert_allclose(found.pooled, expected.numpy(), atol=1e-4 * scale)
    np.testing.assert_allclose(found.spatial, middle[0][:, :7].numpy(), atol=1e-4 * middle[0].abs().mean().item())


def test_a_file_that_could_run_code_is_refused(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"weights": Path("x")}, path)
    with pytest.raises(ArtifactError, match="holds pickled objects"):
        inception.load_inception(weights=path)


def test_other_weights_and_other_images_are_refused(tmp_path, weights):
    path = tmp_path / "other.pth"
    torch.save({"conv.weight": torch.zeros(3)}, path)
    with pytest.raises(ArtifactError, match="does not hold the weights of this Inception"):
        inception.load_inception(weights=path)
    with pytest.raises(DataError, match="2 channels"):
        inception.inception_features(ArrayImages(pictures(2)), weights=weights)
    with pytest.raises(DataError, match="are int16"):
        inception.inception_features(ArrayImages(pictures(3).astype(np.int16)), weights=weights)


def test_without_a_network_one_line_says_where_the_weights_belong(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no connection")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(ArtifactError, match=r"neither at .*6726825d\.pth nor to be had \(no connection\)") as caught:
        inception.load_inception()
    assert "\n" not in str(caught.value)
    inception.weights_file().parent.mkdir(exist_ok=True)
    inception.weights_file().write_bytes(b"half a file")
    with pytest.raises(ArtifactError, match="is damaged"):
        inception.load_inception()

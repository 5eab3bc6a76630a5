"""Networks against the method card's counts and a literal version; the generator that a training leaves behind."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from wazuka.core.errors import ArtifactError, ConfigError, DataError
from wazuka.core.records import read_json, write_json
from wazuka.nn import generators
from wazuka.nn.msg_gan import Combine, Discriminator, Generator, MsgGanGenerator, draw_latents, resize


def count(network: nn.Module) -> str:
    return f"{sum(one.numel() for one in network.parameters()) / 1e6:.2f}"


def make(
    *,
    classes: tuple[str, ...] = ("a", "b"),
    conditional: bool = True,
    shape: tuple[int, int, int] = (32, 32, 3),
    intensity: str = "rgb8",
    networks: int = 1,
) -> MsgGanGenerator:
    """A generator with freshly drawn weights, its biases too, its images dampened into [-1, 1]."""
    states = []
    for seed in range(networks):
        torch.manual_seed(seed)
        network = Generator(32, 32, channels=shape[2], classes=len(classes) if conditional else 0)
        for name, one in network.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(one, std=0.1)
            if name.startswith("to_image") and name.endswith("weight"):
                nn.init.normal_(one, std=0.3)
        states.append({name: one.detach().clone() for name, one in network.state_dict().items()})
    return MsgGanGenerator(
        classes=classes,
        shape=shape,
        intensity=intensity,
        window=None,
        size=32,
        latent=32,
        conditional=conditional,
        states=tuple(states),
    )


@pytest.mark.parametrize(
    ("size", "latent", "generator", "discriminator"),
    [
        (64, 512, "22.49", "18.36"),
        (64, 256, "5.63", "4.59"),
        (64, 128, "1.41", "1.15"),
        (32, 128, "1.30", "1.08"),
    ],
)
def test_parameter_counts_are_the_cards(size: int, latent: int, generator: str, discriminator: str) -> None:
    with torch.device("meta"):
        assert count(Generator(size, latent)) == generator
        assert count(Discriminator(size, latent)) == discriminator


@pytest.mark.parametrize("combine", ["simple", "lin-cat", "cat-lin"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_images_come_at_every_scale_and_are_scored_together(size: int, channels: int, combine: Combine) -> None:
    with torch.device("meta"):  # shapes only
        generator = Generator(size, 32, channels=channels, classes=3)
        discriminator = Discriminator(size, 32, channels=channels, classes=3, combine=combine)
        labels = torch.zeros(2, dtype=torch.int64)
        images = generator(torch.zeros(2, 32), labels)
        scores = discriminator(images, labels)
    sides = [4, 8, 16, 32, 64, 128, 256][: len(images)]
    assert sides[-1] == size
    assert [tuple(one.shape) for one in images] == [(2, channels, side, side) for side in sides]
    assert scores.shape == (2,)


def literal_generator(network: Generator, latents: torch.Tensor) -> list[torch.Tensor]:
    """The card's generator, layer by layer."""
    z = latents / latents.norm(dim=1, keepdim=True) * latents.shape[1] ** 0.5
    lrelu = nn.LeakyReLU(0.2)

    def norm(x: torch.Tensor) -> torch.Tensor:
        return x / torch.sqrt((x**2).mean(1, keepdim=True) + 1e-8)

    weight = network.enlarge.weight * (2 / len(network.enlarge.weight)) ** 0.5
    x = lrelu(functional.conv_transpose2d(z[:, :, None, None], weight, network.enlarge.bias))

    def conv(layer: nn.Module, values: torch.Tensor) -> torch.Tensor:
        scale = (2 / layer.weight[0].numel()) ** 0.5  # type: ignore[union-attr, index, operator]
        return functional.conv2d(values, layer.weight * scale, layer.bias, padding=layer.weight.shape[-1] // 2)  # type: ignore[arg-type, operator, union-attr, index]

    x = norm(lrelu(conv(network.same[0], x)))
    images = [conv(network.to_image[0], x)]
    for level in range(1, len(network.same)):
        x = functional.interpolate(x, scale_factor=2, mode="nearest")
        x = norm(lrelu(conv(network.up[level - 1], x)))
        x = norm(lrelu(conv(network.same[level], x)))
        images.append(conv(network.to_image[level], x))
    return images


def literal_discriminator(network: Discriminator, images: list[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """The card's discriminator with its three ways to combine, layer by layer."""
    lrelu = nn.LeakyReLU(0.2)

    def conv(layer: nn.Module, values: torch.Tensor, padding: int) -> torch.Tensor:
        scale = (2 / layer.weight[0].numel()) ** 0.5  # type: ignore[union-attr, index, operator]
        return functional.conv2d(values, layer.weight * scale, layer.bias, padding=padding)  # type: ignore[arg-type, operator]

    def join(image: torch.Tensor, x: torch.Tensor, linear: nn.Module | None) -> torch.Tensor:
        if network.combine == "simple":
            return torch.cat([image, x], 1)
        assert linear is not None
        if network.combine == "lin-cat":
            return torch.cat([conv(linear, image, 0), x], 1)
        return conv(linear, torch.cat([image, x], 1), 0)

    x = conv(network.levels[0].linear, images[-1], 0)
    for number, level in enumerate(network.levels):
        if number:
            x = join(images[-1 - number], x, level.linear)
        x = lrelu(conv(level.first, x, 1))
        x = functional.avg_pool2d(lrelu(conv(level.second, x, 1)), 2)
    x = join(images[0], x, network.linear)
    alike = labels if network.embedding is not None else torch.zeros_like(labels)
    deviations = [torch.sqrt(x[alike == one].var(0, correction=0) + 1e-8).mean() for one in alike]
    x = torch.cat([x, torch.stack(deviations).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)], 1)
    x = lrelu(conv(network.dense, lrelu(conv(network.last, x, 1)), 0))
    score = conv(network.score, x, 0)[:, 0, 0, 0]
    if network.embedding is None:
        return score
    scale = (2 / network.embedding.shape[1]) ** 0.5
    return score + torch.stack([x[i, :, 0, 0] @ network.embedding[label] * scale for i, label in enumerate(labels)])


def test_the_generator_equals_the_card_written_out() -> None:
    torch.manual_seed(0)
    network = Generator(64, 32)
    for one in network.parameters():
        if one.ndim == 1:
            nn.init.normal_(one)
    latents = torch.randn(3, 32)
    for ours, theirs in zip(network(latents), literal_generator(network, latents), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("combine", ["simple", "lin-cat", "cat-lin"])
@pytest.mark.parametrize("classes", [0, 2])
def test_the_discriminator_equals_the_card_written_out(combine: Combine, classes: int) -> None:
    torch.manual_seed(0)
    network = Discriminator(64, 32, channels=1, classes=classes, combine=combine)
    for one in network.parameters():
        if one.ndim == 1:
            nn.init.normal_(one)
    images = [torch.randn(4, 1, side, side) for side in (4, 8, 16, 32, 64)]
    labels = torch.tensor([0, 1, 1, 0])
    expected = literal_discriminator(network, images, labels)
    assert torch.allclose(network(images, labels if classes else None), expected, rtol=1e-4, atol=1e-4)


def test_images_can_be_scored_under_other_classes_besides_their_own() -> None:
    torch.manual_seed(0)
    network = Discriminator(32, 32, classes=3)
    images = [torch.randn(4, 3, side, side) for side in (4, 8, 16, 32)]
    own, other = torch.tensor([0, 1, 1, 2]), torch.tensor([2, 0, 2, 1])
    scores = network(images, torch.stack([own, other], 1))
    assert scores.shape == (4, 2) and torch.allclose(scores[:, 0], network(images, own), atol=1e-5)
    assert network.embedding is not None
    with torch.no_grad():
        network.embedding.copy_(network.embedding[[2, 0, 1]])  # each row holds the vector of the class before it
    swapped = network(images, torch.stack([own, (other + 1) % 3], 1))
    assert torch.allclose(swapped[:, 1], scores[:, 1], atol=1e-5)


def test_a_class_is_a_small_part_of_what_a_generator_starts_from() -> None:
    torch.manual_seed(0)
    network = Generator(32, 32, classes=2)
    seen: list[torch.Tensor] = []
    expand = network.enlarge.expand
    network.enlarge.expand = lambda values: (seen.append(values), expand(values))[1]  # type: ignore[method-assign, func-returns-value]
    network(torch.randn(3, 32), torch.tensor([0, 1, 0]))
    latent, label = seen[0][:, :32, 0, 0], seen[0][:, 32:, 0, 0]
    assert torch.allclose(latent.norm(dim=1), torch.full((3,), 32**0.5), rtol=1e-4)
    assert torch.allclose(label.norm(dim=1), torch.full((3,), 0.3 * 32**0.5), rtol=1e-4)
    assert torch.equal(label[0], label[2]) and not torch.equal(label[0], label[1])


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    generator, discriminator = Generator(32, 32, classes=2), Discriminator(32, 32, classes=2)
    labels = torch.tensor([0, 1, 0])
    discriminator(generator(torch.randn(3, 32), labels), labels).square().sum().backward()
    for network in (generator, discriminator):
        assert all(one.grad is not None and float(one.grad.abs().max()) > 0 for one in network.parameters())


def test_a_size_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ConfigError, match="`size` is 48; give 32, 64, 128 or 256"):
        Generator(48, 32)


def test_an_image_depends_on_its_own_label_and_seed_alone() -> None:
    generator = make()
    labels, seeds = np.arange(70) % 2, np.arange(70) * 1000
    images = generator.sample(labels, seeds)
    assert images.shape == (70, 32, 32, 3) and images.dtype == np.uint8
    assert np.array_equal(images, generator.sample(labels, seeds))
    order = np.random.default_rng(0).permutation(70)[:9]
    again = generator.sample(labels[order], seeds[order])
    assert np.abs(again.astype(int) - images[order]).max() <= 1
    assert np.abs(generator.sample(labels[:1], seeds[:1]).astype(int) - images[:1]).max() <= 1
    assert len(np.unique(images.reshape(70, -1), axis=0)) == 70
    assert np.abs(generator.sample(1 - labels[:4], seeds[:4]).astype(int) - images[:4]).mean() > 5


def test_latent_vectors_are_normal_and_use_all_bits_of_a_seed() -> None:
    latents = draw_latents(np.arange(200), 64).numpy()
    assert abs(latents.mean()) < 0.03 and abs(latents.std() - 1) < 0.03
    far = draw_latents(np.array([5, 5 + 2**32, 5 + 2**62]), 64).numpy()
    assert np.array_equal(far[0], latents[5]) and not np.allclose(far[0], far[1]) and not np.allclose(far[0], far[2])
    assert abs(np.corrcoef(latents)[np.triu_indices(200, 1)].mean()) < 0.01
    first = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(7))).standard_normal(64)
    assert np.array_equal(latents[7], first.astype(np.float32))


def test_truncation_draws_images_of_a_class_together() -> None:
    generator = make()
    labels, seeds = np.zeros(32, np.int64), np.arange(32)

    def spread(truncation: float) -> float:
        return float(generator.sample(labels, seeds, truncation=truncation).astype(float).std(0).mean())

    assert spread(0.02) < 0.5 * spread(0.5) < 0.5 * spread(1.0)


@pytest.mark.parametrize("networks", [1, 2])
def test_a_saved_generator_gives_the_same_bytes(networks: int, tmp_path: Path) -> None:
    generator = make(conditional=networks == 1, networks=networks)
    labels, seeds = np.array([0, 1, 1, 0, 1]), np.arange(5)
    generator.save(tmp_path)
    again = generators.load(tmp_path)
    assert isinstance(again, MsgGanGenerator) and isinstance(again, generators.Generator)
    assert np.array_equal(again.sample(labels, seeds), generator.sample(labels, seeds))
    assert (again.classes, again.shape, again.intensity) == (("a", "b"), (32, 32, 3), "rgb8")


def test_a_generator_with_another_weight_of_the_class_is_refused(tmp_path: Path) -> None:
    make(conditional=True, networks=1).save(tmp_path)
    facts = json.loads((tmp_path / "generator.json").read_text())
    for other in ({"class_weight": 1.0}, {}):
        changed = {name: value for name, value in facts.items() if name != "class_weight"} | other
        (tmp_path / "generator.json").write_text(json.dumps(changed))
        with pytest.raises(ArtifactError, match="its images would be others; train the generator again"):
            generators.load(tmp_path)


def test_one_network_per_class_makes_the_images_of_its_class() -> None:
    both = make(conditional=False, networks=2)
    seeds = np.arange(6)
    images = both.sample(np.array([0, 1, 0, 1, 1, 0]), seeds)
    for label in (0, 1):
        single = dataclasses.replace(both, classes=("a",), states=(both.states[label],), _networks={})
        rows = np.flatnonzero(np.array([0, 1, 0, 1, 1, 0]) == label)
        assert np.abs(single.sample(np.zeros(3, np.int64), seeds[rows]).astype(int) - images[rows]).max() <= 1


def test_hounsfield_units_stay_in_the_window_that_was_trained_on() -> None:
    generator = make(shape=(32, 32, 1), intensity="hounsfield")
    state = {name: one * (20 if name.startswith("to_image") else 1) for name, one in generator.states[0].items()}
    images = dataclasses.replace(generator, states=(state,), _networks={}).sample(np.zeros(8, np.int64), np.arange(8))
    assert images.dtype == np.int16
    assert (images.min(), images.max()) == (-160, 240)  # the default window: 40 +- 200


def test_images_are_brought_to_the_tasks_shape() -> None:
    plain = make().sample(np.array([0]), np.array([3])).astype(float)
    for shape in ((16, 16, 3), (40, 48, 3)):
        images = make(shape=shape).sample(np.array([0]), np.array([3]))
        assert images.shape == (1, *shape)
        assert abs(images.astype(float).mean() - plain.mean()) < 3
    small = make(shape=(16, 16, 3)).sample(np.array([0]), np.array([3])).astype(float)
    blocks = plain.reshape(1, 16, 2, 16, 2, 3).mean((2, 4))
    assert np.abs(small - blocks).max() < 45 and np.abs(small - blocks).mean() < 2  # cut off at the end of the range


def test_resizing_keeps_a_constant_image() -> None:
    for shape in ((8, 8), (20, 12), (33, 40)):
        assert torch.allclose(resize(torch.full((1, 3, 16, 16), 0.25), shape), torch.tensor(0.25), atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "seeds", "truncation", "error", "text"),
    [
        ([0, 1], [0], 1.0, DataError, "2 labels and 1 seeds"),
        ([0, 2], [0, 1], 1.0, DataError, r"Label 2 is no class; give 0 to 1 \(a, b\)"),
        ([0, 1], [0, -1], 1.0, DataError, "Seed -1 is negative"),
        ([0, 1], [0, 1], 1.5, ConfigError, "`truncation` is 1.5"),
    ],
)
def test_wrong_requests_are_refused(
    labels: list[int], seeds: list[int], truncation: float, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        make().sample(np.array(labels), np.array(seeds), truncation=truncation)


def test_a_damaged_generator_is_named(tmp_path: Path) -> None:
    make().save(tmp_path)
    facts = read_json(tmp_path / generators.FILE)
    write_json(tmp_path / generators.FILE, facts | {"latent": 64})
    with pytest.raises(ArtifactError, match="does not fit"):
        generators.load(tmp_path)
    del facts["shape"]
    write_json(tmp_path / generators.FILE, facts)
    with pytest.raises(ArtifactError, match="is damaged"):
        generators.load(tmp_path)

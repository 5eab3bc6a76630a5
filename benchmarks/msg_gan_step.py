"""Speed of one MSG-GAN step against a plain float32 step of the same networks.

    python benchmarks/msg_gan_step.py --json [--device cuda] [--size 64] [--latents 32,64,128] [--threads 1]

Both train the same networks from the same weights on the same images (noise), relativistic average hinge, Adam, average of
the generator's weights, no augmentation. The plain step is written as in a textbook: upsampling, concatenation and every
convolution on their own, contiguous memory, the generator's graph built for the discriminator's step too, gradients of the
discriminator's weights in the generator's step, losses read after each step. Before timing, both give the same images and
scores to rounding. Steps alternate between the two, so that other work on the machine slows both alike; the figures are
medians. `cpu_seconds` is processor time: with one thread on a busy machine it is what an idle one would take.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any


def plain_images(network: Any, latents: Any) -> list[Any]:
    """The generator layer by layer."""
    import torch
    from torch.nn import functional

    def norm(x: Any) -> Any:
        return x / torch.sqrt((x**2).mean(dim=1, keepdim=True) + 1e-8)

    def act(x: Any) -> Any:
        return functional.leaky_relu(x, 0.2)

    z = latents / latents.norm(dim=1, keepdim=True) * latents.shape[1] ** 0.5
    first = network.enlarge
    x = act(functional.conv_transpose2d(z[:, :, None, None], first.weight * first.scale, first.bias))
    x = norm(act(network.same[0](x)))
    images = [network.to_image[0](x)]
    for up, same, to_image in zip(network.up, network.same[1:], network.to_image[1:], strict=True):
        x = functional.interpolate(x, scale_factor=2, mode="nearest")
        x = norm(act(up(x)))
        x = norm(act(same(x)))
        images.append(to_image(x))
    return images


def plain_scores(network: Any, images: list[Any]) -> Any:
    """The discriminator layer by layer."""
    import torch
    from torch.nn import functional

    def act(x: Any) -> Any:
        return functional.leaky_relu(x, 0.2)

    x = None
    for level, image in zip(network.levels, reversed(images[1:]), strict=True):
        mapped = level.linear(image)
        x = mapped if x is None else torch.cat([mapped, x], dim=1)
        x = functional.avg_pool2d(act(level.second(act(level.first(x)))), 2)
    x = torch.cat([network.linear(images[0]), x], dim=1)
    deviation = torch.sqrt(((x - x.mean(dim=0)) ** 2).mean(dim=0) + 1e-8).mean()
    x = torch.cat([x, deviation.expand(len(x), 1, 4, 4)], dim=1)
    x = act(network.dense(act(network.last(x))))
    return network.score(x).view(-1)


def plain_step(
    networks: tuple[Any, Any], average: Any, optimizers: tuple[Any, Any], reals: Any, latents: Any
) -> tuple[float, float]:
    """One step as plainly as it can be written."""
    import torch
    from torch.nn import functional

    generator, discriminator = networks
    levels = [reals]
    while levels[0].shape[-1] > 4:
        levels.insert(0, functional.avg_pool2d(levels[0], 2))
    fakes = [one.detach() for one in plain_images(generator, latents)]
    real, fake = plain_scores(discriminator, levels), plain_scores(discriminator, fakes)
    d_loss = functional.relu(1 - (real - fake.mean())).mean() + functional.relu(1 + (fake - real.mean())).mean()
    optimizers[1].zero_grad()
    d_loss.backward()
    optimizers[1].step()
    fakes = plain_images(generator, latents)
    real, fake = plain_scores(discriminator, levels), plain_scores(discriminator, fakes)
    g_loss = functional.relu(1 + (real - fake.mean())).mean() + functional.relu(1 - (fake - real.mean())).mean()
    optimizers[0].zero_grad()
    g_loss.backward()
    optimizers[0].step()
    with torch.no_grad():
        for mean, value in zip(average.parameters(), generator.parameters(), strict=True):
            mean.mul_(0.999).add_(value, alpha=0.001)
    return d_loss.item(), g_loss.item()


def measure(latent: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time both steps for one length of the latent vector."""
    import copy
    from pathlib import Path

    import numpy as np
    import torch

    from wazuka.nn.rows import ArrayImages
    from wazuka.synthesize.msg_gan import Config, _settings, build_networks, make_game
    from wazuka.training.adversarial import _Loop
    from wazuka.training.sample_monitor import Quality

    device, size, batch = arguments.device, arguments.size, arguments.batch
    config = Config(
        start="normal",  # from zero all images would be equal before the first step, whatever made them
        latent=latent,
        batch=batch,
        steps=10**6,
        loss="ra-hinge",
        size=size,
        augment="none",
        precision=arguments.precision,
        compile=arguments.compile,
    )
    pixels = np.random.default_rng(0).integers(0, 256, (4 * batch, size, size, 3)).astype(np.uint8)
    game = make_game(
        ArrayImages(pixels), None, size=size, config=config, intensity="rgb8", window=None, device=device, seed=0
    )
    networks = build_networks(config, size=size, channels=3, classes=0, seed=0)
    plain = tuple(copy.deepcopy(one).to(device) for one in networks)
    average = copy.deepcopy(plain[0])
    adam = {"lr": config.lr, "betas": config.betas}
    optimizers = tuple(torch.optim.Adam(one.parameters(), **adam) for one in plain)
    loop = _Loop(
        *networks, game, _settings(config, config.steps), 0, device, Path(), lambda network, step: Quality(), print
    )
    latents = torch.randn(batch, latent, device=device)
    with torch.no_grad():
        ours, theirs = loop.generator(latents), plain_images(plain[0], latents)
        scores = loop.discriminator(theirs), plain_scores(plain[1], theirs)
    difference = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    difference = max(difference, float((scores[0] - scores[1]).abs().max()))
    assert difference < 1e-2 if device != "cpu" else difference < 1e-3, difference
    reals = torch.from_numpy(pixels[:batch]).to(device).permute(0, 3, 1, 2).contiguous() / 127.5 - 1

    def ready() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    def timed(step: Callable[[], Any]) -> tuple[float, float]:
        ready()
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        ready()
        return time.perf_counter() - wall, time.process_time() - cpu

    rounds = []
    for number in range(arguments.warm + arguments.steps):
        new = torch.randn(batch, latent, device=device)
        pair = timed(loop._step), timed(lambda new=new: plain_step(plain, average, optimizers, reals, new))  # type: ignore[misc,arg-type]
        rounds += [pair] if number >= arguments.warm else []
    (wall, cpu), (plain_wall, plain_cpu) = np.median(np.array(rounds), axis=0).tolist()
    return {
        "size": size,
        "latent": latent,
        "batch": batch,
        "device": device,
        "precision": loop.precision,
        "compile": arguments.compile,
        "threads": arguments.threads,
        "seconds": round(wall, 4),
        "plain_seconds": round(plain_wall, 4),
        "ratio": round(plain_wall / wall, 2),
        "cpu_seconds": round(cpu, 4),
        "plain_cpu_seconds": round(plain_cpu, 4),
        "cpu_ratio": round(plain_cpu / cpu, 2),
        "largest_difference": difference,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--latents", default="32,64,128")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    from wazuka.core import threads

    threads.limit(arguments.threads)
    found = [measure(int(one), arguments) for one in arguments.latents.split(",")]
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    for one in found:
        print(
            f"latent {one['latent']}: {one['seconds']} s a step, plain {one['plain_seconds']} s, ratio {one['ratio']}"
        )


if __name__ == "__main__":
    main()

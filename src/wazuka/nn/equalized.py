"""Layers of ProGAN-like networks: equalized learning rate, normalization of latent vectors and pixels, batch deviation.

Karras, Aila, Laine & Lehtinen (2018), Progressive Growing of GANs (ICLR, arXiv:1710.10196).

Two pairs of layers are computed as one, which changes no value but the rounding: nearest upsampling with the 3x3
convolution behind it is one transposed convolution (16 instead of 36 products per input pixel), and a 1x1 convolution
with the 3x3 convolution behind it is one convolution of what goes into the first.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

SLOPE = 0.2
EPSILON = 1e-8


def to_sphere(latents: torch.Tensor) -> torch.Tensor:
    """Project vectors (B, L) onto the sphere of radius sqrt(L): the root mean square of their values becomes 1."""
    return latents * torch.rsqrt(latents.square().mean(1, keepdim=True) + EPSILON)


def pixel_norm(features: torch.Tensor) -> torch.Tensor:
    """Divide each pixel's channels by their root mean square (Karras et al. 2018); (B, C, H, W)."""
    scale = torch.rsqrt(features.float().square().mean(1, keepdim=True) + EPSILON)
    return features * scale.to(features.dtype)


def minibatch_deviation(features: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
    """Append a channel that holds everywhere the mean of all values' standard deviations over the batch.

    Args:
        features: (B, C, H, W).
        labels: Class of each sample, (B,): deviations are then those within the sample's class. Over several classes at
            once a batch with one image per class would look diverse.
    """
    values = features.float()
    if labels is None:
        deviations = torch.sqrt((values - values.mean(0)).square().mean(0) + EPSILON).mean().expand(len(values))
    else:
        same = (labels[:, None] == labels[None, :]).to(values.dtype)
        share, flat = same / same.sum(1, keepdim=True), values.flatten(1)
        kind = values.device.type
        with torch.autocast("cpu" if kind == "meta" else kind, enabled=False):  # meta knows no autocast
            variance = share @ (flat - share @ flat).square()
        deviations = torch.sqrt(variance + EPSILON).mean(1)
    channel = deviations.to(features.dtype).view(-1, 1, 1, 1).expand(-1, 1, *features.shape[2:])
    return torch.cat([features, channel], 1)


class EqualizedConv(nn.Module):
    """A convolution whose weights are kept with variance 1 and scaled by sqrt(2 / fan in) in use.

    All layers then learn at one rate under Adam, whatever their width (Karras et al. 2018).

    Args:
        inputs, outputs: Channels.
        kernel: Side.
        transposed: Whether it makes 4x4 pixels of 1x1 (fan in: `inputs`).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, transposed: bool = False) -> None:
        super().__init__()
        shape = (inputs, outputs) if transposed else (outputs, inputs)
        self.weight = nn.Parameter(torch.randn(*shape, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = math.sqrt(2 / (inputs if transposed else inputs * kernel * kernel))

    def kernel(self) -> torch.Tensor:
        """The weights in use."""
        return self.weight * self.scale

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Convolve (B, inputs, H, W), zero padding that keeps the size (kernels 1 and 3)."""
        side = self.weight.shape[-1]
        return functional.conv2d(values, self.kernel(), self.bias, padding=side // 2 if side < 4 else 0)

    def expand(self, values: torch.Tensor) -> torch.Tensor:
        """Transposed convolution of (B, inputs, 1, 1) to (B, outputs, 4, 4)."""
        return functional.conv_transpose2d(values, self.kernel(), self.bias)

    def after_upsampling(self, values: torch.Tensor) -> torch.Tensor:
        """The 3x3 convolution of (B, inputs, H, W) upsampled twofold to the nearest pixel, as one transposed convolution.

        An output pixel sees each input pixel through those weights of its 3x3 that fall on the same source pixel; these
        sums are the 4x4 kernel.
        """
        padded = functional.pad(self.kernel().transpose(0, 1).flip(2, 3), (1, 1, 1, 1))
        kernel = padded[..., 1:, 1:] + padded[..., :-1, 1:] + padded[..., 1:, :-1] + padded[..., :-1, :-1]
        return functional.conv_transpose2d(values, kernel, self.bias, stride=2, padding=1)

    def after_linear(self, linear: EqualizedConv) -> torch.Tensor:
        """Weights of this 3x3 convolution with a 1x1 convolution of its first inputs in front, as one.

        Returns:
            (outputs, inputs of `linear` + inputs that pass it by + 1, 3, 3); the last input is 1 inside the image, which
            carries the bias of `linear` and, unlike a bias, is 0 in the padding.
        """
        kernel, passed = self.kernel(), linear.weight.shape[0]
        affine = torch.cat([linear.kernel()[:, :, 0, 0], linear.bias[:, None]], 1)
        merged = torch.einsum("oahw,ai->oihw", kernel[:, :passed], affine)
        return torch.cat([merged[:, :-1], kernel[:, passed:], merged[:, -1:]], 1)


def act(values: torch.Tensor) -> torch.Tensor:
    return functional.leaky_relu(values, SLOPE, inplace=True)

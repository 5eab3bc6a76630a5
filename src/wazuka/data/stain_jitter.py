"""Stain augmentation of H&E images: jitter in the space of hematoxylin, eosin and DAB (remedy `stain-jitter`).

Tellez et al. (2019), "Quantifying the effects of data augmentation and stain color normalization in convolutional
neural networks for computational pathology", Medical Image Analysis 58, arXiv:1902.06543, after Tellez et al. (2018),
IEEE TMI 37(9), arXiv:1808.05896: concentrations C = -ln(I + e) M^-1 of the stains, per image and stain
C' = alpha C + beta with alpha ~ U(1 - sigma, 1 + sigma) and beta ~ U(-sigma, sigma), I' = exp(-C' M) - e. The paper's
HED-light has sigma 0.05, its HED-strong 0.2. M: Ruifrok and Johnston (2001), "Quantification of histochemical staining
by color deconvolution", Anal Quant Cytol Histol 23, as scikit-image's `rgb_from_hed`.

Concentrations are in units of natural-logarithm optical density, as in the formula. (scikit-image since 0.18 divides
them by ln 10^6 = 13.8, where the same beta would be 13.8 times as strong.) Background is moved with the tissue.
No Python runs per sample: C M is linear, so both steps are one 3 x 3 matrix and one offset per image.
"""

from __future__ import annotations

import torch

from wazuka.core.errors import ConfigError

HED = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Optical density (R, G, B) of hematoxylin, eosin and DAB (Ruifrok and Johnston 2001, as in scikit-image)."""
EPSILON = 1 / 255
"""Added to an image so that black has a density: one gray level (our choice; the paper names no value)."""
SIGMA = 0.05
"""HED-light of the paper."""


def stain_jitter(batch: torch.Tensor, *, generator: torch.Generator, sigma: float = SIGMA) -> torch.Tensor:
    """Jitter the stains of each image; same generator state, same result.

    Args:
        batch: (B, 3, H, W) float RGB in [0, 1].
        generator: The jitter is drawn on its device.
        sigma: Half width of the ranges of alpha and beta, 0 to below 1; 0 gives the batch back up to rounding.

    Returns:
        (B, 3, H, W), same dtype and device, in [0, 1].

    Raises:
        ConfigError: If the images are not RGB or `sigma` is out of range.
    """
    if not 0 <= sigma < 1:
        raise ConfigError(f"`sigma` of `stain-jitter` is {sigma}; give a number from 0 to below 1.")
    alpha, beta = draw(len(batch), sigma, generator=generator)
    return apply(batch, alpha.to(batch.device), beta.to(batch.device))


def draw(count: int, sigma: float, *, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw factors alpha and shifts beta of the three stains for `count` images: (count, 3) float32 each."""
    spread = (torch.rand(2, count, 3, generator=generator, device=generator.device) * 2 - 1) * sigma
    return 1 + spread[0], spread[1]


def apply(batch: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """Apply a draw to (B, 3, H, W) RGB in [0, 1]: the concentrations of stain i become alpha_i C_i + beta_i.

    Raises:
        ConfigError: If the images are not RGB.
    """
    if batch.ndim != 4 or batch.shape[1] != 3:
        channels = f"{batch.shape[1]} channel{'s' * (batch.shape[1] != 1)}" if batch.ndim == 4 else "no batch of images"
        raise ConfigError(f"`stain-jitter` needs RGB images, but these have {channels}; drop it from `remedies`.")
    # The inverse is taken in float64, so that without jitter the product with it is the identity to float32's rounding.
    stains = torch.tensor(HED, dtype=torch.float64, device=batch.device)
    mix = torch.linalg.inv(stains) @ (alpha.double()[:, :, None] * stains)  # density (row) @ mix = jittered density
    shift = beta.double() @ stains
    density = (batch.contiguous() + EPSILON).log_().neg_().flatten(2)
    jittered = torch.baddbmm(shift[:, :, None].to(batch.dtype), mix.transpose(1, 2).to(batch.dtype), density)
    return jittered.neg_().exp_().sub_(EPSILON).clamp_(0, 1).view(batch.shape)

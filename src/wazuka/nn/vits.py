"""Vision transformers under the names of published checkpoints, with their authors' pooling; builders of `architectures`.

- `pooled_vit`: a timm transformer with what timm's names cannot say: gated MLPs, and the class token joined with the mean
  of the patch tokens (Vorontsov et al. 2024, arXiv:2309.07778; Zimmermann et al. 2024, arXiv:2408.00738).
- `hf_vit`: the ViT and DINOv2 layouts of the hub's `transformers` checkpoints. They are built here, not by that library,
  because its newer versions name the modules otherwise than the published files do.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

Pooling = Literal["class", "class+mean"]
Layout = Literal["vit", "dinov2"]

HF_PREFIXES = ("vit.", "dinov2.")
"""What `transformers` puts before the names of a backbone that was saved with a head."""
HF_HEADS = ("pooler", "classifier")
EPSILON = 1e-6
"""Of layer normalization, as in timm and in the training code of iBOT and DINOv2."""


def pooled_vit(
    *,
    model: str,
    pooling: Pooling = "class",
    swiglu: bool = False,
    img_size: int | None = None,
    patch_size: int | None = None,
    embed_dim: int | None = None,
    depth: int | None = None,
    num_heads: int | None = None,
    mlp_ratio: float | None = None,
    init_values: float | None = None,
    reg_tokens: int | None = None,
    no_embed_class: bool | None = None,
) -> nn.Module:
    """Build a timm vision transformer whose output is (B, dim) for "class", (B, 2 dim) for "class+mean".

    Args:
        model: timm name of a `VisionTransformer`.
        pooling: "class": the class token; "class+mean": joined with the mean of the patch tokens. Register tokens enter
            neither.
        swiglu: Gated MLPs with SiLU (Shazeer 2020, arXiv:2002.05202), gate and value packed in one layer.
        img_size: This and all that follow replace the model's own values; None keeps them.

    Raises:
        ValueError: If the model is no `VisionTransformer` or `pooling` is unknown.
    """
    import timm
    from timm.layers import SwiGLUPacked
    from timm.models.vision_transformer import VisionTransformer

    given = {
        "img_size": img_size,
        "patch_size": patch_size,
        "embed_dim": embed_dim,
        "depth": depth,
        "num_heads": num_heads,
        "mlp_ratio": mlp_ratio,
        "init_values": init_values,
        "reg_tokens": reg_tokens,
        "no_embed_class": no_embed_class,
    }
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if swiglu:
        options |= {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
    if pooling not in ("class", "class+mean"):
        raise ValueError(f"`pooling` is `{pooling}`; use `class` or `class+mean`")
    network = timm.create_model(model, pretrained=False, num_classes=0, global_pool="token", **options)
    if not isinstance(network, VisionTransformer):
        raise ValueError(f"`{model}` is a {type(network).__name__}, not a VisionTransformer")
    if pooling == "class+mean":
        network.forward_head = _ClassAndMean(network.num_prefix_tokens)  # type: ignore[method-assign, assignment]
    return network


class _ClassAndMean:
    """Replaces a timm transformer's head: no module, so that the network's tensors keep their names.

    Args:
        prefix: Class token and register tokens, which come before the patch tokens.
    """

    def __init__(self, prefix: int) -> None:
        self.prefix = prefix

    def __call__(self, tokens: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Join the class token (B, dim) and the mean of the patch tokens (B, dim)."""
        return torch.cat((tokens[:, 0], tokens[:, self.prefix :].mean(dim=1)), dim=-1)


def hf_vit(*, layout: Layout, dim: int, depth: int, heads: int, patch: int = 16, size: int = 224) -> nn.Module:
    """Build a ViT (Dosovitskiy et al. 2020, arXiv:2010.11929) with the tensor names of `transformers` checkpoints.

    Args:
        layout: "vit" (`ViTModel`), or "dinov2" (`Dinov2Model`: layer scale, and a mask token, unused here).
        dim: Length of a token and of the output: the class token after layer normalization.
        size: Pixels a side, a multiple of `patch`.

    Raises:
        ValueError: If `layout` is unknown, or the sizes do not divide.
    """
    if layout not in ("vit", "dinov2"):
        raise ValueError(f"`layout` is `{layout}`; use `vit` or `dinov2`")
    if dim % heads or size % patch:
        raise ValueError(f"{heads} heads do not divide {dim}, or patches of {patch} do not divide {size} pixels")
    return HfVit(layout=layout, dim=dim, depth=depth, heads=heads, patch=patch, size=size)


class HfVit(nn.Module):
    """See `hf_vit`."""

    def __init__(self, *, layout: Layout, dim: int, depth: int, heads: int, patch: int, size: int) -> None:
        super().__init__()
        self.embeddings = _Embeddings(dim, patch=patch, size=size, mask_token=layout == "dinov2")
        block = _VitBlock if layout == "vit" else _Dinov2Block
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(block(dim, heads) for _ in range(depth))
        self.layernorm = nn.LayerNorm(dim, eps=EPSILON)
        self.checkpointing = False
        self.apply(_draw)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory in training, as timm's networks do."""
        self.checkpointing = enable

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, size, size) to tokens (B, 1 + patches, dim), class token first."""
        from torch.utils.checkpoint import checkpoint

        tokens = self.embeddings(images)
        layers: Any = self.encoder.layer
        for one in layers:
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(one, tokens, use_reentrant=False)
            else:
                tokens = one(tokens)
        return self.layernorm(tokens)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, size, size) to class tokens (B, dim)."""
        return self.forward_features(images)[:, 0]


class _Embeddings(nn.Module):
    def __init__(self, dim: int, *, patch: int, size: int, mask_token: bool) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        if mask_token:
            self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + (size // patch) ** 2, dim))
        self.patch_embeddings = nn.Module()
        self.patch_embeddings.projection = nn.Conv2d(3, dim, patch, stride=patch)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        projection: Any = self.patch_embeddings.projection
        patches = projection(images).flatten(2).transpose(1, 2)  # (B, patches, dim)
        tokens = torch.cat((self.cls_token.expand(len(images), -1, -1), patches), dim=1)
        return tokens + self.position_embeddings


class _SelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        def split(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, tokens, dim / heads)

        query, key, value = (split(one(tokens)) for one in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return mixed.transpose(1, 2).flatten(2)


class _Dense(nn.Module):
    """A linear layer under the name `dense`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(x)


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = _SelfAttention(dim, heads)
        self.output = _Dense(dim, dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.output(self.attention(tokens))


class _VitBlock(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = _Attention(dim, heads)
        self.intermediate = _Dense(dim, 4 * dim)
        self.output = _Dense(4 * dim, dim)
        self.layernorm_before = nn.LayerNorm(dim, eps=EPSILON)
        self.layernorm_after = nn.LayerNorm(dim, eps=EPSILON)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attention(self.layernorm_before(tokens))
        return tokens + self.output(functional.gelu(self.intermediate(self.layernorm_after(tokens))))


class _LayerScale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.lambda1


class _Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class _Dinov2Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPSILON)
        self.attention = _Attention(dim, heads)
        self.layer_scale1 = _LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=EPSILON)
        self.mlp = _Mlp(dim)
        self.layer_scale2 = _LayerScale(dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.layer_scale1(self.attention(self.norm1(tokens)))
        return tokens + self.layer_scale2(self.mlp(self.norm2(tokens)))


def _draw(module: nn.Module) -> None:
    """Draw fresh weights as DINO does: truncated normal of deviation 0.02, biases zero."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, _Embeddings):
        nn.init.trunc_normal_(module.cls_token, std=0.02)
        nn.init.trunc_normal_(module.position_embeddings, std=0.02)

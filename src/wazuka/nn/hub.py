"""Pretrained weights from the Hugging Face hub or its cache on this machine, with the user's own token.

The token is huggingface_hub's: `HF_TOKEN`, or what `hf auth login` stored. Nothing here reads it.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wazuka.core.errors import ArtifactError
from wazuka.nn.cards import CARDS

if TYPE_CHECKING:
    from torch import nn

    from wazuka.nn.cards import Card

FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of weights in a repository, the one that is read in preference first."""
REFUSED = (401, 403)
"""Answers of the hub to a user who is not logged in, or has not accepted the license."""


def build_pretrained(name: str, arch: str, args: Mapping[str, Any]) -> nn.Module:
    """Build a network with the weights that the hub's cache or the hub has; one clear line where that is not possible.

    Args:
        name: A card's, else a timm model's.

    Raises:
        ArtifactError: If the weights cannot be had, with what to do, or do not fit.
    """
    from wazuka.nn import architectures

    card = CARDS.get(name)
    if arch not in architectures.BUILDERS:
        import timm

        try:
            published = timm.get_pretrained_cfg(arch)
            source = None if published is None else published.hf_hub_id
            if source is not None and cached_file(source) is None:
                _look_up_hub()
            return timm.create_model(arch, pretrained=True, num_classes=0, **args).eval()
        except Exception as error:  # the hub's and the network libraries' errors have no common class below Exception
            raise _refusal(name, card, error) from error
    if card is None or not card.downloads:
        raise ArtifactError(
            f"The pretrained weights of `{name}` are not on this machine and on no hub; {_remedy(name)}"
        )
    try:
        path = cached_file(card.source)
        if path is None:
            _look_up_hub()
            path = _download(card.source)
    except Exception as error:  # as above
        raise _refusal(name, card, error) from error
    return _load(card, path)


def cached_file(source: str) -> Path | None:
    """The weights of a repository in the hub's cache on this machine, if they are there."""
    from huggingface_hub import try_to_load_from_cache

    for name in FILES:
        found = try_to_load_from_cache(source, name)
        if isinstance(found, str):
            return Path(found)
    return None


def _look_up_hub() -> None:
    """Fail at once where the hub's name cannot be resolved: huggingface_hub would try again for most of a minute.

    Raises:
        OSError: If this machine knows no way to the hub. A proxy resolves names itself, so that nothing is asked then.
    """
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname
    if constants.HF_HUB_OFFLINE or host is None or {"https", "all"} & set(getproxies()):
        return
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise OSError(f"{host} cannot be found: no connection") from error


def _download(source: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in FILES:
        try:
            return Path(hf_hub_download(source, name))
        except LocalEntryNotFoundError:  # no connection: another name would not help
            raise
        except EntryNotFoundError:
            continue
    raise FileNotFoundError(f"{source} has neither {' nor '.join(FILES)}")


def _load(card: Card, path: Path) -> nn.Module:
    from wazuka.nn import architectures, weights

    state = weights.read_state(path) if path.suffix == ".safetensors" else weights.read_checkpoint(path)
    network = architectures.build_seeded(card.arch, card.args, seed=0)
    fitted, _ = architectures.fit_weights(card.arch, network, state, path=path)
    weights.load_fitted(network, fitted)
    return network


def _remedy(name: str) -> str:
    return f"add them with `wazuka backbones add {name} FILE.safetensors`, or use `weights: none`."


def _refusal(name: str, card: Card | None, error: Exception) -> ArtifactError:
    """Build the error for weights that cannot be had: why, in the library's words, and what to do."""
    from huggingface_hub.errors import GatedRepoError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if card is not None and card.gated and (isinstance(error, GatedRepoError) or status in REFUSED):
        return ArtifactError(
            f"The weights of `{name}` are gated and the hub refused them; accept their license at {card.page}, log in"
            f" with `hf auth login` (or set HF_TOKEN), or {_remedy(name)}"
        )
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    gate = f" They are gated: accept their license at {card.page} and log in first, or" if card and card.gated else ""
    return ArtifactError(
        f"The pretrained weights of `{name}` are neither on this machine nor to be had from the hub ({reason})"
        f"{'.' if gate else ';'}{gate} {_remedy(name)}"
    )

"""The table of docs/speed.md: how many images at a time fit into 8, 12 and 24 GB, computed from shapes.

    python benchmarks/memory_fits.py [--size 224] [--gigabytes 8,12,24] [--json]

Nothing is trained and no weights are made: the estimate is that of `wazuka run` (`wazuka.nn.memory`), of which a tenth of
the memory is left out for context, workspaces and fragmentation. AdamW; two copies of the trained weights, as early
stopping keeps them. For the probe: images of one frozen pass.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from wazuka.nn.architectures import build_meta
from wazuka.nn.cards import CARDS
from wazuka.nn.memory import HEADROOM, Training, network_footprint

BACKBONES = ("resnet50", "vit-small", "vit-base", "vit-large")
METHODS: dict[str, dict[str, Any]] = {
    "linear probe": {"trained": "nothing"},
    "LoRA, last 2 blocks": {"trained": "adapters", "blocks": 2},
    "LoRA, all blocks": {"trained": "adapters"},
    "LoRA, all blocks, checkpointing": {"trained": "adapters", "checkpointing": True},
    "full fine-tuning": {"trained": "all"},
}


def largest(name: str, method: str, *, half: bool, size: int, gigabytes: tuple[int, ...]) -> list[int]:
    """Most images in one pass, for each amount of memory."""
    card = CARDS[name]
    side = card.input_size if card.fixed_size else size
    training = Training(half=half, **METHODS[method])
    network = build_meta(card.arch, dict(card.args))
    found = network_footprint(network, (3, side, side), training, dim=card.feature_dim, name=name)
    limits = [int(one * 2**30 * (1 - HEADROOM)) for one in gigabytes]
    if training.trained == "nothing":
        return [(one - found.parameters) // found.frozen for one in limits]
    return [found.most_images(one) for one in limits]


def main() -> None:
    """Compute all rows and print them as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--gigabytes", default="8,12,24")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    gigabytes = tuple(int(one) for one in arguments.gigabytes.split(","))
    table = {}
    for name in BACKBONES:
        for method in METHODS:
            how = {"size": arguments.size, "gigabytes": gigabytes}
            table[name, method] = [largest(name, method, half=half, **how) for half in (False, True)]
    if arguments.json:
        print(json.dumps([{"backbone": name, "method": method, "fp32": one, "bf16": two}
                          for (name, method), (one, two) in table.items()]))  # fmt: skip
        return
    heads = [f"{one} GB {precision}" for precision in ("fp32", "bf16") for one in gigabytes]
    print(f"| backbone | method | {' | '.join(heads)} |")
    print("|---" * (2 + len(heads)) + "|")
    for (name, method), rows in table.items():
        print(f"| {name} | {method} | {' | '.join(str(one or '-') for row in rows for one in row)} |")


if __name__ == "__main__":
    main()

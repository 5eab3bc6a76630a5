"""Pretrainers: images without labels become an encoder. One file per technique; the five joint embeddings share one."""

from wazuka.core.registry import Registry

METHODS = Registry(
    "pretrain method",
    {
        "fg-ssl": "wazuka.pretrain.fg_ssl",
        "simsiam": "wazuka.pretrain.joint_embedding:SIMSIAM",
        "byol": "wazuka.pretrain.joint_embedding:BYOL",
        "barlow-twins": "wazuka.pretrain.joint_embedding:BARLOW_TWINS",
        "simclr": "wazuka.pretrain.joint_embedding:SIMCLR",
        "vicreg": "wazuka.pretrain.joint_embedding:VICREG",
        "jigsaw-permutation": "wazuka.pretrain.jigsaw_permutation",
    },
)
"""Name -> module. A new technique adds one line here."""

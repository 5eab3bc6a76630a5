"""Adapters: labeled images and a backbone become a predictor. One file per technique."""

from wazuka.core.registry import Registry

METHODS = Registry(
    "adapt method",
    {
        "linear-probe": "wazuka.adapt.linear_probe",
        "finetune": "wazuka.adapt.finetune",
        "lora": "wazuka.adapt.lora",
        "knn": "wazuka.adapt.knn",
        "prototype": "wazuka.adapt.prototype",
        "fixmatch": "wazuka.adapt.fixmatch",
    },
)
"""Name -> module. A new technique adds one line here."""

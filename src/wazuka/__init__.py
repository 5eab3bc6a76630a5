"""Wazuka: which way of getting more from few labels pays off on your own medical images.

The flow, one package per step: `data` -> `nn` -> `training` -> `pretrain | synthesize | adapt` -> `evaluate` -> `audit`
-> `study` (runs them) -> `report` (decides). `cli` has one verb per step.
"""

__version__ = "0.1.0"

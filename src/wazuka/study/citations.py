"""References: what to cite for the techniques and the statistics."""

from __future__ import annotations

from wazuka import adapt, pretrain, synthesize

STATISTICS = (
    "Owen, A. B. (2007). The pigeonhole bootstrap. Annals of Applied Statistics 1(2). doi:10.1214/07-AOAS122 (crossed bootstrap)",
    "Holm, S. (1979). A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics 6(2).",
    "Nadeau, C., Bengio, Y. (2003). Inference for the generalization error. Machine Learning 52. (leakage certificate)",
    "Tijdeman, R. (1980). The chairman assignment problem. Discrete Mathematics 32. (class-aware label order)",
)


def references() -> list[str]:
    """All references, each once, techniques first."""
    found: list[str] = []
    for registry in (synthesize.METHODS, pretrain.METHODS, adapt.METHODS):
        for method in registry.values():
            found += [one for one in method.cites if one not in found]
    return [*found, *STATISTICS]

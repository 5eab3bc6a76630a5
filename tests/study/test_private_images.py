"""Images of a private generator are kept as they come; settings without a private form are refused in the study file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.study.toy_synthesizer import ToyGenerator
from wazuka import adapt
from wazuka.audit.synthetic import Memorized
from wazuka.core.errors import ConfigError
from wazuka.study.synthetic.settings import read_synthesis
from wazuka.study.synthetic.steps import make_filtered, memorization_facts

DP = {"epsilon": 8.0, "delta": 1e-4}


class EveryOther:
    """A search that finds every other image to be a copy."""

    def judge(self, pixels: np.ndarray) -> Memorized:
        table = pd.DataFrame({"flag": np.arange(len(pixels)) % 2 == 0})
        return Memorized(table=table, limits={"pixels": SimpleNamespace(null=10_000)}, unusable={}, source="toy")  # type: ignore[dict-item]


@pytest.mark.parametrize("private", [True, False])
def test_a_private_generator_keeps_every_image_and_the_record_says_why(private: bool) -> None:
    rng = np.random.default_rng(0)
    generator = ToyGenerator(("a", "b"), rng.integers(0, 255, (4, 8, 8, 3)), np.array([0, 1, 0, 1]), 5.0)
    found = make_filtered(generator, np.array([8, 8]), EveryOther(), testing=False, device="cpu", private=private)  # type: ignore[arg-type]
    facts = memorization_facts([found])
    assert facts["flagged"] == 8 and facts["outcome"] == "issue"
    assert facts["filtered"] is not private
    assert (len(found.rows), bool(found.rows["flag"].any())) == ((16, True) if private else (len(found.pixels), False))
    assert ("not_filtered_because" in facts) is private


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "s: `loss: ra-hinge` has no private form"),
        ({"loss": "ns"}, "s: `augment: adaptive` follows"),
    ],
)
def test_a_study_file_without_a_private_form_is_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    values = {"synthesize": {"method": "msg-gan"} | settings, "dp": DP}
    with pytest.raises(ConfigError) as caught:
        read_synthesis(values, method=adapt.METHODS["linear-probe"], where="s")
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_study_file_with_a_private_form_is_read() -> None:
    values = {"synthesize": {"method": "msg-gan", "loss": "ns", "augment": "none"}, "dp": DP}
    found = read_synthesis(values, method=adapt.METHODS["linear-probe"], where="s")
    assert found is not None and found.dp is not None and found.dp.epsilon == 8.0

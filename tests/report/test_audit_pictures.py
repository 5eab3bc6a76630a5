"""Which pictures of an audit the report shows, and what it says below them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wazuka.report.audit_section import _pictures
from wazuka.report.audits import Audit
from wazuka.report.words import Words


def make_audit(folder: Path, *names: str) -> Audit:
    for name in names:
        Image.fromarray(np.full((4, 6, 3), 99, np.uint8)).save(folder / f"{name}.png")
    rest: dict[str, Any] = {"fidelity": {}, "checks": (), "pools": (), "collapsed": None, "curves": {}, "seconds": None}
    rest |= {"method": "msg-gan", "images": 9, "encoder": "e", "against": "a", "compared_with": "c"}
    where = {"key": "k", "strategies": ("gan-mixed",), "budget": "20", "repeat": 0, "train_domain": "all"}
    return Audit(**where, **rest, pictures={name: (folder, f"{name}.png") for name in names})


@pytest.mark.parametrize(("language", "red"), [("en", "red speaks for synthetic"), ("ja", "赤は合成")])
def test_the_maps_of_where_images_differ_are_shown_with_what_their_colors_mean(
    tmp_path: Path, language: str, red: str
) -> None:
    shown = _pictures([[make_audit(tmp_path, "grid", "where", "unknown")]], Words(language))
    assert [one["name"] for one in shown] == ["grid", "where"]
    assert red in shown[1]["caption"] and "gan-mixed" in shown[1]["caption"]
    assert shown[1]["source"].startswith("data:image/png;base64,")

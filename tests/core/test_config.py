"""Strict configuration: what a user may write, and the one line he gets for everything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from wazuka.core.config import build, describe_fields, parse_yaml, read_yaml
from wazuka.core.errors import ConfigError, nearest, unknown_name


@dataclass(frozen=True, kw_only=True)
class Config:
    """An example."""

    lam: float = 5e-3
    """Weight of the off-diagonal term
    (lambda, Eq. 2)."""
    mode: Literal["barlow", "equal"] = "barlow"
    """Weighting."""
    grid: tuple[int, ...] = (16, 8, 4)
    needed: int
    """Must be given."""

    def __post_init__(self) -> None:
        if self.needed < 0:
            raise ValueError(f"`needed` is {self.needed}; give 0 or more")


def test_a_mapping_becomes_the_dataclass_with_lists_as_tuples_and_whole_numbers_as_floats() -> None:
    config = build(Config, {"lam": 1, "grid": [8, 4], "needed": 3}, where="adapt")
    assert config == Config(lam=1.0, grid=(8, 4), needed=3)
    assert isinstance(config.lam, float)


def test_a_number_with_an_exponent_needs_no_point_and_a_name_that_looks_like_one_stays_a_name() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Named(Config):
        name: str = ""
        betas: tuple[float, float] = (0.0, 0.9)

    values = parse_yaml("{lam: 1e-4, name: 1e5, betas: [1E-1, 0.5], needed: 1}", where="f.yaml")
    config = build(Named, values, where="f.yaml")
    assert (config.lam, config.name, config.betas) == (1e-4, "1e5", (0.1, 0.5))
    with pytest.raises(ConfigError, match=r"Value .1e5. of `adapt\.needed` is wrong"):
        build(Config, {"needed": "1e5"}, where="adapt")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lamb": 1, "needed": 1}, "Unknown key `lamb` in adapt. Did you mean `lam`?"),
        ({"lam": "1", "needed": 1}, "Value '1' of `adapt.lam` is wrong: input should be a valid number."),
        ({"needed": "3"}, "Value '3' of `adapt.needed` is wrong: input should be a valid integer."),
        ({"needed": True}, "Value True of `adapt.needed` is wrong"),
        ({}, "Key `adapt.needed` is missing; add it."),
        (
            {"mode": "other", "needed": 1},
            "Value 'other' of `adapt.mode` is wrong: input should be 'barlow' or 'equal'.",
        ),
        ({"grid": [1, "a"], "needed": 1}, "of `adapt.grid.1` is wrong"),
        ({"needed": -1}, "adapt: `needed` is -1; give 0 or more"),
    ],
)
def test_a_wrong_setting_is_one_line_with_its_value_and_what_is_right(values: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Config, values, where="adapt")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fields_are_described_with_the_docstring_under_them() -> None:
    rows = {row[0]: row for row in describe_fields(Config)}
    assert rows["lam"] == ("lam", "float", "0.005", "Weight of the off-diagonal term (lambda, Eq. 2).")
    assert rows["needed"][2:] == ("required", "Must be given.")
    assert rows["grid"][3] == ""


def test_inherited_fields_are_described_too() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Longer(Config):
        """One more."""

        lam: float = 1.0
        """Other words."""
        more: int = 0
        """Its own."""

    described = {name: (default, text) for name, _, default, text in describe_fields(Longer)}
    assert described["more"] == ("0", "Its own.") and described["lam"] == ("1.0", "Other words.")
    assert described["mode"] == ("'barlow'", "Weighting.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "Key `a` stands twice (line 2); keep one of them."),
        ("a: [1\n", "is not valid YAML"),
        ("- 1\n- 2\n", "holds list, not a mapping"),
        ("a: !!python/object/apply:os.system ['true']\n", "is not valid YAML"),
    ],
)
def test_yaml_that_is_no_plain_mapping_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match="study") as caught:
        parse_yaml(text, where="study.yaml")
    assert message in str(caught.value)


def test_a_missing_yaml_file_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml does not exist; give the path of a YAML file"):
        read_yaml(tmp_path / "none.yaml")


def test_the_nearest_name_is_offered_only_when_it_is_near() -> None:
    assert nearest("Linear-Prob", ["linear-probe", "finetune"]) == "linear-probe"
    assert nearest("zzz", ["linear-probe", "finetune"]) is None
    assert "Did you mean" not in str(unknown_name("method", "zzz", ["linear-probe"]))
    assert str(unknown_name("method", "x", [])).endswith("Known: none.")

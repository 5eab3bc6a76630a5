"""The recipes with synthetic images: the paper's settings and tasks, the full matrix, and how many generators it costs."""

from __future__ import annotations

from collections import Counter

from tests.study.conftest import PROBE
from wazuka.core.config import read_yaml
from wazuka.data.manifest import Dataset
from wazuka.study.config import Study, read_study, resolve_study
from wazuka.study.data import load_study_data, make_splits
from wazuka.study.planner import make_plan
from wazuka.study.recipes import recipes
from wazuka.study.strategies import Strategy
from wazuka.study.synthetic.settings import Synthesis

TASKS = {"real": "real", "synthetic": "synthetic"}
"""The paper's two trainings; each is tested on real and on synthetic images."""


def read(name: str, clinic: Dataset) -> Study:
    return read_study(recipes()[name], dataset=clinic.folder)


def synthesis_of(strategy: Strategy) -> Synthesis:
    assert strategy.synthesis is not None, strategy.name
    return strategy.synthesis


def test_the_papers_settings_are_in_its_recipe(clinic: Dataset) -> None:
    study = read("msg-gan-resnet18", clinic)
    assert {one.name: synthesis_of(one).train_on for one in study.strategies} == TASKS
    assert study.test.patients == "20%" and study.test.column is None
    for one in study.strategies:
        assert (one.backbone, one.weights, one.image.size, one.image.crop) == ("resnet18", "pretrained", 64, None)
        assert (one.adapt.name, one.adapt.config.train) == ("finetune", "head")
        made = synthesis_of(one)
        gan = made.method.config
        assert (made.method.name, made.split_budget, made.ratio) == ("msg-gan", True, 1)
        assert (gan.size, gan.latent, gan.combine, gan.loss, gan.batch) == (64, 512, "lin-cat", "ra-hinge", 20)
        assert (gan.lr, gan.betas, gan.ema, gan.flips) == (0.003, (0.0, 0.99), 0.999, "horizontal")
        assert (gan.augment, gan.conditional) == ("none", "per-class")


def test_the_smoke_version_differs_from_the_papers_recipe_in_size_alone(clinic: Dataset) -> None:
    large, small = read("msg-gan-resnet18", clinic), read("msg-gan-resnet18-smoke", clinic)
    assert {one.name: synthesis_of(one).train_on for one in small.strategies} == TASKS
    for one in large.strategies:
        other = small.strategy(one.name)
        assert (other.backbone, other.adapt.name, other.adapt.config.train) == ("resnet18", "finetune", "head")
        assert synthesis_of(other).split_budget == synthesis_of(one).split_budget
        for key in ("loss", "combine", "conditional", "augment", "flips", "lr", "betas", "ema"):
            assert getattr(synthesis_of(other).method.config, key) == getattr(synthesis_of(one).method.config, key), key


def test_the_matrix_has_every_way_to_train_and_one_generator_for_all(clinic: Dataset) -> None:
    study = read("synthetic-matrix", clinic)
    assert (study.budgets, study.repeats, study.baseline) == (("10%", "100%"), 3, "real")
    assert study.strategy("real").synthesis is None
    made = {one.name: one.synthesis for one in study.strategies if one.synthesis is not None}
    assert len({one.method.config for one in made.values()}) == 1
    assert {(one.method.config.conditional, one.method.config.size) for one in made.values()} == {("projection", 64)}
    assert {name: (one.train_on, one.ratio, one.classes, one.split_budget) for name, one in made.items()} == {
        "synthetic": ("synthetic", 1, "all", False),
        "both-0.5": ("real+synthetic", 0.5, "all", False),
        "both-1": ("real+synthetic", 1, "all", False),
        "both-2": ("real+synthetic", 2, "all", False),
        "both-5": ("real+synthetic", 5, "all", False),
        "synthetic-then-real": ("synthetic-then-real", 1, "all", False),
        "rare-only": ("real+synthetic", 1, "rare-only", False),
        "split-budget": ("real+synthetic", 1, "all", True),
    }
    for one in study.strategies:
        assert (one.backbone, one.adapt.name) == ("mobilenetv1-025", "linear-probe")
        assert (one.image.crop, one.image.size) == (64, 128)  # generators of 64 pixels, enlarged for the probe


def test_the_matrix_trains_two_generators_for_each_budget_and_repeat(clinic: Dataset) -> None:
    values = read_yaml(recipes()["synthetic-matrix"])
    for one in values["strategies"].values():
        one |= PROBE  # the recipe's own backbone has weights that are not here
    values |= {"image": {"size": 32}, "budgets": ["50%", "100%"], "min_class_patients": 2}
    study = resolve_study(values, folder=clinic.folder, where="matrix", dataset=clinic.folder)
    data = load_study_data(study)
    plan = make_plan(study, data, make_splits(study, data))
    assert Counter(one.kind for one in plan.steps.values())["synthesize"] == 2 * 3 * 2
    assert len(plan.trials) == 2 * 3 * 9

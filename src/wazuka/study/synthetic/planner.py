"""The part of a plan that makes synthetic images: generators, their images, features of these, and audits.

A generator is shared by all strategies that ask for the same one on the same rows; so are its images. Every trial of a
study with a generator is also tested on synthetic images: its own generator's, or, for a strategy without one, those of
the first strategy in the file that has a fitting one (same image transform, repeat, budget and train domain).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wazuka import synthesize
from wazuka.core.errors import ConfigError
from wazuka.core.hashing import derive_seed, hash_strings, make_key
from wazuka.nn import features
from wazuka.study.plan import Step
from wazuka.study.rows import TrialRows, generator_rows, rows_hash, trial_rows
from wazuka.study.strategies import Strategy
from wazuka.study.synthetic import images as synthetic_images
from wazuka.study.synthetic.settings import Synthesis

if TYPE_CHECKING:
    from wazuka.study.planner import Planner

AUDIT_CODE_VERSION = 2
"""Of the audit step; raised when its figures change."""


@dataclass(frozen=True)
class Audited:
    """The audit of one generator while a plan is made: its name and arguments, and the steps that keep its images."""

    name: str
    args: dict[str, Any]
    pools: list[str]


class SynthesisPlanner:
    """Adds the steps that make synthetic images to a plan.

    Args:
        planner: Of the whole study; its steps are added to.
    """

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.makers = [one for one in planner.study.strategies if one.synthesis is not None]
        self.untested: dict[str, str] = {}
        self._audits: dict[str, Audited] = {}
        self._rows: dict[tuple[int, str, str, bool], TrialRows] = {}

    def check(self, strategy: Strategy) -> None:
        """Refuse a generator whose images have no label to learn from."""
        if strategy.synthesis is None:
            return
        method = synthesize.METHODS[strategy.synthesis.method.name]
        if method.needs != "labels":
            raise ConfigError(
                f"Strategy `{strategy.name}`: `{method.name}` makes images without labels, which a classifier cannot learn"
                " from; use a generator that needs labels."
            )

    def to_train_on(self, strategy: Strategy, group: tuple[int, str], budget: str) -> dict[str, Any] | None:
        """Synthetic images that a strategy's task trains on; None where it trains on real ones only."""
        chosen = strategy.synthesis
        if chosen is None or chosen.train_on == "real":
            return None
        step = self.images(strategy, chosen, group, budget)
        have = self.rows(group, budget, chosen.split_budget).counts(self.planner.data)
        weight = synthetic_images.weight(have, ratio=chosen.ratio, classes=chosen.classes)
        return {"step": step, "train_on": chosen.train_on, "ratio": chosen.ratio, "weight": weight}

    def to_test_on(self, strategy: Strategy, group: tuple[int, str], budget: str, *, target: str | None) -> str | None:
        """Step with the synthetic images that a trial is tested on beside the real ones; None where there are none."""
        if target is not None or not self.makers:
            return None
        makers = [strategy] if strategy.synthesis is not None else self.makers
        for source in makers:
            fits = budget in source.budgets and group[0] < source.repeats and source.image == strategy.image
            if fits and source.synthesis is not None:
                return self.images(source, source.synthesis, group, budget)
        what = f"{strategy.name} on synthetic images"
        self.untested[what] = "no generator of this study makes images of its transform, budget and repeat"
        return None

    def features(self, step: str, encoder_step: str) -> str:
        """Step that computes frozen features of synthetic images."""
        args = {"pixels": step, "encoder": encoder_step}
        key = make_key("features", step, encoder_step, features.CODE_VERSION)
        name = "features of synthetic images"
        return self.planner.put(Step(kind="features", key=key, name=name, needs=(step, encoder_step), args=args))

    def images(self, strategy: Strategy, chosen: Synthesis, group: tuple[int, str], budget: str) -> str:
        """Step that makes the images of one generator: for training, and for testing from seeds never used in training."""
        planner = self.planner
        pixel_step = planner.pixels(strategy.image)[0]
        encoder = planner.encoder(strategy)
        encoder_step = planner.encoder_step(encoder)
        feature_step = planner.feature_steps(encoder, encoder_step, strategy.image, [pixel_step])[0]
        generator = self.generator(strategy, chosen, group, budget, inputs=(pixel_step, encoder_step))
        rows = self.rows(group, budget, chosen.split_budget)
        wanted = synthetic_images.wanted(rows.counts(planner.data), ratio=chosen.ratio, classes=chosen.classes)
        of_test = rows.counts(planner.data, of_test=True)
        args: dict[str, Any] = {
            "generator": generator,
            "pixels": pixel_step,
            "encoder": encoder_step,
            "features": feature_step,
            "train": wanted.tolist(),
            "test": of_test.tolist(),
            "repeat": group[0],
            "train_domain": group[1],
        }
        key = make_key("synthetic", args, synthetic_images.CODE_VERSION)
        name = f"images of {chosen.method.name}, {budget} labels, repeat {group[0] + 1}"
        needs = (generator, pixel_step, encoder_step, feature_step)
        args |= {"strategy": strategy.name, "budget": budget}
        step = planner.put(Step(kind="synthetic", key=key, name=name, needs=needs, args=args))
        own = {"synthetic": step, "strategy": strategy.name, "budget": budget, "repeat": group[0]}
        own |= {"train_domain": group[1]}
        audit = self._audits.setdefault(generator, Audited(f"audit of {name}", own, []))
        if step not in audit.pools:
            audit.pools.append(step)
        return step

    def audits(self) -> None:
        """Add the audit of every generator, once all sets of images are planned that it makes."""
        for one in self._audits.values():
            key = make_key("audit", one.pools, AUDIT_CODE_VERSION)
            needs, after, args = tuple(one.pools[:1]), tuple(one.pools[1:]), one.args | {"pools": one.pools}
            self.planner.put(Step(kind="audit", key=key, name=one.name, needs=needs, after=after, args=args))

    def generator(
        self,
        strategy: Strategy,
        chosen: Synthesis,
        group: tuple[int, str],
        budget: str,
        *,
        inputs: tuple[str, str],
    ) -> str:
        """Step that trains one generator on the rows of one budget (or on its part of their patients)."""
        planner, method = self.planner, synthesize.METHODS[chosen.method.name]
        found = generator_rows(
            planner.data,
            planner.groups[group],
            budget=budget,
            train_domain=group[1],
            split_budget=chosen.split_budget,
            needs=method.needs,
        )
        if chosen.dp is not None:
            from wazuka.training.private import check_delta

            check_delta(chosen.dp.delta, int((~found.is_val).sum()))
        seed = derive_seed(planner.study.seed, "synthesize", method.name, *group)
        held = hash_strings(np.asarray(found.is_val, int).astype(str).tolist())
        key = make_key(
            "synthesize", method.name, method.code_version, chosen.method.config, chosen.dp, inputs, seed,
            rows_hash(found.rows, labeled=method.needs != "none"), held, planner.data.classes,
        )  # fmt: skip
        args = {"strategy": strategy.name, "budget": budget, "repeat": group[0], "train_domain": group[1], "seed": seed}
        args |= {"pixels": inputs[0], "encoder": inputs[1], "images": int((~found.is_val).sum())}
        name = f"{method.name} on {args['images']} images, repeat {group[0] + 1}"
        return planner.put(Step(kind="synthesize", key=key, name=name, needs=inputs, args=args))

    def rows(self, group: tuple[int, str], budget: str, split_budget: bool) -> TrialRows:
        """The rows of an ordinary trial, cut once."""
        key = (*group, budget, split_budget)
        if key not in self._rows:
            planner = self.planner
            self._rows[key] = trial_rows(
                planner.data,
                planner.groups[group],
                budget=budget,
                train_domain=group[1],
                split_budget=split_budget,
            )
        return self._rows[key]

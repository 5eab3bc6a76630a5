"""From a study to its plan: which steps a strategy takes, what each needs, and all that goes into its key.

Nothing is computed from pixels here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from wazuka import adapt, pretrain
from wazuka.core.errors import ConfigError, NotEnoughData
from wazuka.core.hashing import derive_seed, hash_strings, make_key
from wazuka.core.progress import say
from wazuka.data import budgets, pixels, splits
from wazuka.data.transform import ImageTransform
from wazuka.nn import backbones, features
from wazuka.nn.encoders import Encoder
from wazuka.study import data as study_data
from wazuka.study.config import Study
from wazuka.study.data import StudyData
from wazuka.study.plan import Plan, Step, study_key
from wazuka.study.rows import pretraining_rows
from wazuka.study.strategies import Strategy
from wazuka.study.synthetic.planner import SynthesisPlanner

CODE_VERSION = 1
"""Of the trial step itself: cutting rows, predicting, scoring. Raised when its numbers change."""


def make_plan(study: Study, data: StudyData, split_table: pd.DataFrame) -> Plan:
    """Plan every step of a study.

    Raises:
        NotEnoughData: If a budget does not fit the data; the message names the smallest or largest possible one.
        ArtifactError, ConfigError: If a backbone cannot be had or does not fit its method.
    """
    planner = Planner(study, data, split_table)
    for strategy in study.strategies:
        planner.add(strategy)
    planner.synthesis.audits()
    untested = tuple(planner.synthesis.untested.items())
    return Plan(study_key(study, data), planner.steps, (*study.not_measured, *untested))


class Planner:
    """Holds what strategies share while the plan is made."""

    def __init__(self, study: Study, data: StudyData, split_table: pd.DataFrame) -> None:
        self.study, self.data = study, data
        self.steps: dict[str, Step] = {}
        self.groups = study_data.split_groups(split_table)
        self.split_hashes = {key: splits.split_hash(rows) for key, rows in self.groups.items()}
        self.domains = sorted({domain for _, domain in self.groups})
        self.encoders: dict[tuple[str, str], Encoder] = {}
        self._pixels: dict[ImageTransform, list[str]] = {}
        self._sizes: dict[tuple[int, str, str], int] = {}
        self.synthesis = SynthesisPlanner(self)

    def put(self, step: Step) -> str:
        """Add a step once; equal keys are one step."""
        self.steps.setdefault(step.id, step)
        return step.id

    def add(self, strategy: Strategy) -> None:
        """Add all steps of one strategy."""
        method = adapt.METHODS[strategy.adapt.name]
        if self.data.task not in method.tasks:
            raise ConfigError(f"`{method.name}` cannot do {self.data.task}; it does {', '.join(method.tasks)}.")
        encoder = self.encoder(strategy)
        if encoder.kind not in method.backbone_kinds:
            raise ConfigError(
                f"Strategy `{strategy.name}`: `{method.name}` trains the network, which an {encoder.kind.upper()} backbone"
                f" ({strategy.backbone}) does not allow; use `linear-probe`, or a safetensors backbone."
            )
        if (
            strategy.pretrain is not None
            and encoder.kind not in pretrain.METHODS[strategy.pretrain.name].backbone_kinds
        ):
            raise ConfigError(
                f"Strategy `{strategy.name}`: `{strategy.pretrain.name}` trains the network, which an"
                f" {encoder.kind.upper()} backbone ({strategy.backbone}) does not allow; use a timm model or safetensors."
            )
        self.check_remedies(strategy, encoder)
        self.synthesis.check(strategy)
        for train_domain in self.domains:
            groups = [key for key in self.groups if key[1] == train_domain and key[0] < strategy.repeats]
            tasks = [
                self.task(strategy, encoder, key, budget, target=target, local_labels=count)
                for key in groups
                for budget in strategy.budgets
                for target, count in self.local_labels(strategy, train_domain)
            ]
            if method.batched:
                needs = tuple(dict.fromkeys(one for task in tasks for one in task["needs"]))
                key = make_key(
                    "adapt", method.name, method.code_version, strategy.adapt.config, [t["key"] for t in tasks]
                )
                name = f"{method.name} for {strategy.name} ({len(tasks)} problems)"
                args = {"strategy": strategy.name, "train_domain": train_domain, "tasks": tasks}
                artifact = self.put(Step(kind="adapt", key=key, name=name, needs=needs, args=args))
                for index, task in enumerate(tasks):
                    self.trial(strategy, method, task, needs=(artifact, *task["needs"]), artifact=artifact, index=index)
            else:
                for task in tasks:
                    self.trial(strategy, method, task, needs=tuple(task["needs"]))

    def local_labels(self, strategy: Strategy, train_domain: str) -> list[tuple[str | None, int]]:
        """The ordinary trial (None, 0), then (target domain, labels of it) for each domain not trained on."""
        others = [one for one in self.domains if one != train_domain]
        return [(None, 0), *((target, count) for target in others for count in strategy.local_labels)]

    def check_remedies(self, strategy: Strategy, encoder: Encoder) -> None:
        """Refuse remedies that data or network give nothing to work on, before anything runs."""
        if "stain-jitter" in strategy.remedies and self.data.main.card.intensity != "rgb8":
            raise ConfigError(
                f"Strategy `{strategy.name}`: `stain-jitter` needs RGB images, {self.data.main.folder} has"
                f" {self.data.main.card.intensity}; drop it."
            )
        if "domain-balanced" in strategy.remedies:
            domains = self.data.table.loc[self.data.table["source"] == 0, "domain"]
            left = domains.nunique() - any(one.startswith("not:") for one in self.domains)
            if left < 2 or domains.isna().any():
                raise ConfigError(
                    f"Strategy `{strategy.name}`: `domain-balanced` needs two domains to train on and one of each image;"
                    f" {self.data.main.folder} has {left}, and {int(domains.isna().sum())} images without a domain. Drop it,"
                    " or import with --domain COLUMN."
                )
        if "test-batchnorm" in strategy.remedies:
            from wazuka.nn.architectures import build_meta
            from wazuka.nn.batchnorm import batchnorm_layers

            if not batchnorm_layers(build_meta(encoder.arch, encoder.args)):
                raise ConfigError(
                    f"Strategy `{strategy.name}`: `test-batchnorm` needs BatchNorm layers, `{encoder.name}` has none; drop it."
                )
            self.check_test_domains(strategy)

    def check_test_domains(self, strategy: Strategy) -> None:
        """Refuse `test-batchnorm` where some domain has a single test image: there are no statistics of one."""
        for (repeat, train_domain), rows in self.groups.items():
            test = self.data.rows_of(rows.loc[rows["role"] == "test", "id"].tolist())
            test = test[test["label"].notna()]
            if train_domain.startswith("not:"):
                test = test[test["domain"] == train_domain.removeprefix("not:")]
            counts = test.groupby([test["source"], test["domain"].astype("string").fillna("unknown")]).size()
            if repeat < strategy.repeats and (counts == 1).any():
                domain = counts.index[int(np.argmax(counts.to_numpy() == 1))][1]
                raise ConfigError(
                    f"Strategy `{strategy.name}`: `test-batchnorm` needs 2 test images of each domain, `{domain}` has 1 in"
                    f" repeat {repeat + 1}; drop it, or join that domain to another."
                )

    def encoder(self, strategy: Strategy) -> Encoder:
        """Resolve a backbone once for all strategies that share it."""
        given = (strategy.backbone, strategy.weights)
        if given not in self.encoders:
            seed = derive_seed(self.study.seed, "backbone weights")
            self.encoders[given] = backbones.resolve(strategy.backbone, weights=strategy.weights, seed=seed)
            if self.encoders[given].note:
                say(f"{strategy.backbone}: {self.encoders[given].note}")
        return self.encoders[given]

    def pixels(self, image: ImageTransform) -> list[str]:
        """Steps that decode the datasets under one image transform."""
        if image not in self._pixels:
            self._pixels[image] = []
            for source, dataset in enumerate(self.data.datasets):
                args = {"source": source, "image": dataclasses.asdict(image)}
                key, name = pixels.pixels_key(dataset, image), f"pixels of {dataset.card.name}"
                self._pixels[image].append(self.put(Step(kind="pixels", key=key, name=name, args=args)))
        return self._pixels[image]

    def task(
        self,
        strategy: Strategy,
        encoder: Encoder,
        group: tuple[int, str],
        budget: str,
        *,
        target: str | None,
        local_labels: int,
    ) -> dict[str, Any]:
        """One problem for the strategy's adapter: a budget of one repeat and train domain, with its encoder and inputs."""
        repeat, train_domain = group
        method = adapt.METHODS[strategy.adapt.name]
        needs = self.pixels(strategy.image)
        encoder_step = self.encoder_step(encoder)
        if strategy.pretrain is not None:
            encoder_step = self.pretrain_step(strategy, encoder, encoder_step, group, needs[0])
        feature_steps: list[str] = []
        if method.input == "features":
            feature_steps = self.feature_steps(encoder, encoder_step, strategy.image, needs)
        labels = self.labels_of(group, budget)
        if target is not None:
            self.labels_of((repeat, target), str(local_labels))
        values = {
            "strategy": strategy.name,
            "repeat": repeat,
            "train_domain": train_domain,
            "budget": budget,
            "labels": labels,
            "local_labels": local_labels,
            "target_domain": target,
            "soft_labels": strategy.soft_labels,
            "remedies": list(strategy.remedies),
            "split_hash": self.split_hashes[group],
            "target_split_hash": None if target is None else self.split_hashes[repeat, target],
            "encoder": encoder_step,
            "features": feature_steps,
            "pixels": needs,
            "seed": derive_seed(self.study.seed, "trial", repeat, train_domain, budget),
            "synthetic": (synthetic := self.synthesis.to_train_on(strategy, group, budget)),
            "split_budget": strategy.synthesis is not None and strategy.synthesis.split_budget,
        }
        extra: list[str] = []
        if synthetic is not None:
            made = synthetic["step"]
            synthetic["features"] = self.synthesis.features(made, encoder_step) if feature_steps else None
            extra = [made, *([synthetic["features"]] if feature_steps else [])]
        what_decides = {key: one for key, one in values.items() if key != "strategy"}
        for name in ("synthetic", "split_budget"):
            if not what_decides[name]:
                del what_decides[name]
        key = make_key(what_decides, self.data.fingerprint, self.data.classes, self.data.positive, self.data.task)
        return values | {"key": key, "needs": list(dict.fromkeys([*needs, encoder_step, *feature_steps, *extra]))}

    def encoder_step(self, encoder: Encoder) -> str:
        """Step that copies a backbone into the run folder, so that its predictors can be rebuilt from there."""
        spec = {
            name: one for name, one in encoder.spec().items() if name != "path"
        }  # where a file lies decides nothing
        key = make_key("encoder", spec, encoder.weights_hash, backbones.CODE_VERSION)
        args = {"backbone": encoder.spec()}
        return self.put(Step(kind="encoder", key=key, name=f"backbone {encoder.name}", args=args))

    def pretrain_step(
        self, strategy: Strategy, encoder: Encoder, encoder_step: str, group: tuple[int, str], pixel_step: str
    ) -> str:
        """Step that learns an encoder from the training images of one split, without labels; shared where these are equal."""
        assert strategy.pretrain is not None
        method = pretrain.METHODS[strategy.pretrain.name]
        train = pretraining_rows(self.data, self.groups[group], train_domain=group[1])["id"]
        seed = derive_seed(self.study.seed, "pretrain", method.name)
        inputs = [encoder_step, pixel_step, hash_strings(train.tolist()), seed]
        key = make_key("pretrain", method.name, method.code_version, strategy.pretrain.config, inputs)
        args = {"strategy": strategy.name, "repeat": group[0], "train_domain": group[1], "seed": seed}
        args |= {"encoder": encoder_step, "pixels": pixel_step, "images": len(train)}
        name = f"{method.name} on {len(train)} images"
        return self.put(Step(kind="pretrain", key=key, name=name, needs=(encoder_step, pixel_step), args=args))

    def feature_steps(self, encoder: Encoder, encoder_step: str, image: ImageTransform, needs: list[str]) -> list[str]:
        """Steps that compute frozen features of every usable image, once per dataset, transform and encoder."""
        found = []
        for pixel_step in needs:
            key = make_key("features", pixel_step, encoder_step, features.CODE_VERSION)
            args = {"pixels": pixel_step, "encoder": encoder_step}
            name = f"features of {encoder.name}"
            step = Step(kind="features", key=key, name=name, needs=(pixel_step, encoder_step), args=args)
            found.append(self.put(step))
        return found

    def labels_of(self, group: tuple[int, str], budget: str) -> int:
        """Labels that a budget uses in one split; raises NotEnoughData where it does not fit."""
        where = (*group, budget)
        if where not in self._sizes:
            rows = self.groups[group]
            try:
                selection = budgets.select(rows, budgets.parse(budget), labels=self.data.labels)
            except NotEnoughData as error:
                domain = "" if group[1] == "all" else f" (train domain {group[1]})"
                raise NotEnoughData(f"{error}{domain}") from error
            self._sizes[where] = int(selection.labels)
        return self._sizes[where]

    def trial(
        self,
        strategy: Strategy,
        method: Any,
        task: dict[str, Any],
        *,
        needs: tuple[str, ...],
        artifact: str | None = None,
        index: int | None = None,
    ) -> None:
        """Add one trial."""
        group = (task["repeat"], task["train_domain"])
        made = self.synthesis.to_test_on(strategy, group, task["budget"], target=task["target_domain"])
        seen: dict[str, Any] | None = None
        after: tuple[str, ...] = ()
        if made is not None:
            with_features = self.synthesis.features(made, task["encoder"]) if task["features"] else None
            seen = {"step": made, "features": with_features}
            after = (made, with_features) if with_features else (made,)
        key = make_key(
            "trial", CODE_VERSION, strategy.name, method.name, method.code_version, strategy.adapt.config,
            task["key"], artifact, *([] if seen is None else [seen]),
        )  # fmt: skip
        args = task | {"artifact": artifact, "index": index, "synthetic_test": seen}
        where = "" if task["train_domain"] == "all" else f", trained on {task['train_domain']}"
        if task["target_domain"] is not None:
            where += f" and {task['local_labels']} labels of {task['target_domain']}"
        name = f"{strategy.name}, {task['budget']} labels, repeat {task['repeat'] + 1}{where}"
        self.put(Step(kind="trial", key=key, name=name, needs=tuple(dict.fromkeys(needs)), after=after, args=args))

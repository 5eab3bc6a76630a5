"""Turn figures into words of one language: intervals, budgets, metric names, money. Used by every page and the summary."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wazuka.evaluate.label_scaling import Ratio
from wazuka.report.costs import Line
from wazuka.report.estimates import Cell, Count
from wazuka.report.run_folder import RunFolder
from wazuka.report.texts import TEXTS, Language, Reason, listed, say, text
from wazuka.report.verdict import Bounds, name_budget

DASH = "–"
LEVELS = {"_patient": "other.patient", "_parent": "other.parent", "_at_0.5": "other.at half"}


@dataclass(frozen=True)
class Words:
    """The vocabulary of one page."""

    lang: Language

    def __call__(self, key: str, values: Mapping[str, Any] | None = None) -> str:
        """Return a text with its places filled."""
        return text(key, values, lang=self.lang)

    def say(self, reason: Reason) -> str:
        """Return a reason as a sentence or clause."""
        return say(reason, lang=self.lang)

    def sentence(self, reason: Reason) -> str:
        """Return a reason as a sentence: capital first letter, no second full stop."""
        words = self.say(reason)
        return words[:1].upper() + words[1:] if self.lang == "en" else words

    def listed(self, names: list[str]) -> str:
        """Join names."""
        return listed(names, lang=self.lang) if names else self("none")

    def interval(self, value: Bounds | None) -> str:
        """Estimate and interval."""
        return DASH if value is None else minus(self("interval", _plain(value)))

    def signed(self, value: Bounds | None) -> str:
        """Difference and interval, with signs."""
        return DASH if value is None else minus(self("signed interval", _plain(value)))

    def budget(self, cell: Cell) -> str:
        """A budget for use inside a sentence."""
        return self.say(name_budget(cell.budget, cell.labels))

    def metric(self, name: str) -> str:
        """A metric's name, whatever level it was computed on."""
        for suffix, key in LEVELS.items():
            if name.endswith(suffix):
                return self(key, {"metric": self.metric(name.removesuffix(suffix))})
        key = f"metric.{name}"
        return self(key) if key in TEXTS[self.lang] else name

    def about(self, name: str) -> str:
        """What a metric means, in a sentence; empty for an unknown one."""
        key = f"about.{name}"
        return self(key) if key in TEXTS[self.lang] else ""

    def named(self, run: RunFolder, strategy: str) -> str:
        """A strategy's name for tables and legends, with the word that says what its figures lean on."""
        return self("named.transductive", {"name": strategy}) if strategy in run.transductive else strategy

    def count(self, value: Count | None) -> str:
        """A number of labels with its interval; an end beyond what was measured is said in words."""
        return DASH if value is None else minus(self.say(value.reason()))

    def saved(self, value: Count) -> str:
        """The number of labels alone, for a tile."""
        return f"> {value.more_than:,}" if value.estimate is None else minus(f"{value.estimate:,}")

    def share(self, value: Ratio | None) -> str:
        """A share with its interval, in percent."""
        if value is None or value.low is None or value.high is None:
            return DASH
        ends = {"estimate": value.estimate, "low": value.low, "high": value.high}
        return minus(self("percent interval", ends))

    def amount(self, line: Line) -> str:
        """What a line of the cost ledger amounts to, in its own unit."""
        if line.unit == "hours" and abs(line.amount) < 1 / 60:
            return self("costs.seconds", {"amount": line.amount * 3600})
        if line.unit == "hours" and abs(line.amount) < 1:
            return self("costs.minutes", {"amount": line.amount * 60})
        ends = {"low": line.low if line.low is not None else line.amount}
        ends["high"] = line.high if line.high is not None else line.amount
        return self(f"costs.{line.unit}", {"amount": line.amount} | ends)

    def money(self, money: float | None, currency: str | None) -> str:
        """A sum of money, or that no price was given."""
        return self("costs.blank") if money is None else self("costs.money", {"money": money, "currency": currency})


def minus(words: str) -> str:
    """Set minus signs before digits, not hyphens; a hyphen inside a name stays.

    >>> minus("a-1: -0.5 (-0.7 to +0.2)")
    'a-1: \u22120.5 (\u22120.7 to +0.2)'
    """
    words = re.sub(r"(?<![\w.-])-(?=0\.0+(?!\d))", "", words)  # a rounded minus nothing is nothing
    return re.sub(r"(?<![\w.-])-(?=\d)", "\u2212", words)


def _plain(value: Bounds) -> dict[str, float]:
    return {"estimate": value.estimate, "low": value.low, "high": value.high}

"""One run as a page: gathers the context of every section and renders `templates/report.html` in one language."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup, escape

from wazuka import __version__
from wazuka.report import (
    audit_section,
    licenses,
    sections,
    shift_section,
    synthetic_filter,
    synthetic_section,
    tables,
)
from wazuka.report.answer import make_answer
from wazuka.report.figures import styles
from wazuka.report.judgement import Judgement
from wazuka.report.texts import TEXTS, Language
from wazuka.report.words import Words

PAGES: dict[Language, str] = {"en": "report.html", "ja": "report.ja.html"}
ANCHORS = (
    ("curve", "curve.title"),
    ("table", "table.title"),
    ("errors", "errors.title"),
    ("domains", "domains.title"),
    ("synthetic", "synthetic.title"),
    ("data", "data.title"),
    ("checks", "checks.title"),
    ("gates", "gates.title"),
    ("costs", "costs.title"),
    ("missing", "missing.title"),
    ("model", "model.title"),
    ("reproduce", "reproduce.title"),
    ("methods", "methods.title"),
)
METHODS = ("estimate", "comparison", "verdict", "cheaper", "threshold")


def render_report(judgement: Judgement, *, lang: Language) -> str:
    """Return the whole page of one run as HTML that loads nothing from anywhere."""
    run, words = judgement.run, Words(lang)
    synthetic = synthetic_section.synthetic(judgement, words)
    looks = styles(run.strategies, run.baseline)
    context = {
        "title": words("page.title", {"name": str(run.study.get("name", run.path.name))}),
        "other_lang": _other(lang),
        "other_page": PAGES[_other(lang)],
        "contents": [(anchor, words(key)) for anchor, key in ANCHORS if anchor != "synthetic" or synthetic is not None],
        "answer": make_answer(judgement, words),
        "curve": sections.curve(judgement, words, looks),
        "difference": sections.difference(judgement, words, looks),
        "table": tables.strategies(judgement, words, looks),
        "needed": tables.needed(judgement, words),
        "scaling": shift_section.scaling(judgement, words),
        "errors": sections.errors(judgement, words),
        "other": tables.other_scores(judgement, words),
        "domains": tables.domains(judgement, words, looks),
        "matrix": shift_section.matrix(judgement, words),
        "local": shift_section.local(judgement, words, looks),
        "remedies": shift_section.remedies(judgement, words),
        "agreement": tables.agreement(judgement, words),
        "synthetic": synthetic,
        "audits": audit_section.audits(judgement, words),
        "filtering": synthetic_filter.filtered(judgement, words),
        "data": sections.data(judgement, words),
        "checks": sections.checks(judgement, words),
        "leakage": sections.leakage(judgement, words),
        "gates": tables.gates(judgement, words),
        "costs": tables.costs(judgement, words),
        "missing": sections.missing(judgement, words),
        "model": sections.model(judgement, words),
        "licenses": licenses.licenses(judgement, words),
        "reproduce": sections.reproduce(judgement, words),
        "methods": [words(f"methods.{one}") for one in METHODS],
    }
    return render("report.html", context, words=words, simulated=run.simulated)


def render(template: str, context: dict[str, Any], *, words: Words, simulated: bool) -> str:
    """Render a template; every value is escaped, `simulated` puts the banner on the page.

    Raises:
        jinja2.UndefinedError: If the template asks for what the context lacks.
    """
    common = {
        "lang": words.lang,
        "t": words,
        "version": __version__,
        "simulated": words("page.simulated") if simulated else "",
        "outcome_word": lambda outcome: (
            words(f"check.{outcome}") if f"check.{outcome}" in TEXTS[words.lang] else outcome
        ),
    }
    return _environment().get_template(template).render(common | context)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    folder = resources.files("wazuka.report") / "templates"
    sources = {
        one.name: one.read_text(encoding="utf-8") for one in folder.iterdir() if one.name.endswith((".html", ".css"))
    }
    environment = Environment(
        loader=DictLoader(sources), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["code"] = code
    return environment


def code(words: str) -> Markup:
    """Escape text and set what stands in backticks as code."""
    parts = [escape(part) for part in words.split("`")]
    if len(parts) % 2 == 0:  # a lone backtick is a backtick
        return escape(words)
    return Markup("").join(Markup("<code>{}</code>").format(one) if at % 2 else one for at, one in enumerate(parts))


def _other(lang: Language) -> Language:
    return "ja" if lang == "en" else "en"

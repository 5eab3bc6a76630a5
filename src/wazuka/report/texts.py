"""Every sentence of the report in English and Japanese; the tables are `texts_en.EN`, `texts_ja.JA`
and, on domains and label scaling, `texts_shift_en` and `texts_shift_ja`, on synthetic images `texts_synthetic_en` and
`texts_synthetic_ja`.

A sentence that depends on results is a `Reason`: a key and its values, turned into words only when a page is written.
So `report.json` (English) and both pages say the same thing. Used by `wazuka report RUN --lang en|ja`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from wazuka.core.errors import unknown_name
from wazuka.report.texts_en import EN
from wazuka.report.texts_ja import JA
from wazuka.report.texts_shift_en import EN_SHIFT
from wazuka.report.texts_shift_ja import JA_SHIFT
from wazuka.report.texts_synthetic_en import EN_SYNTHETIC
from wazuka.report.texts_synthetic_ja import JA_SYNTHETIC

Language = Literal["en", "ja"]
TEXTS: dict[str, dict[str, str]] = {"en": EN | EN_SHIFT | EN_SYNTHETIC, "ja": JA | JA_SHIFT | JA_SYNTHETIC}
"""Language -> key -> text with `{name}` or `{name:format}` places."""


@dataclass(frozen=True)
class Reason:
    """One sentence to come: its key in `TEXTS` and the values of its places (plain, another Reason, or a list of them)."""

    key: str
    values: Mapping[str, Any] = field(default_factory=dict)


def check_language(lang: str) -> Language:
    """Return `lang` if it is known.

    Raises:
        ConfigError: Naming the nearest known language.
    """
    if lang not in TEXTS:
        raise unknown_name("language", lang, sorted(TEXTS), where="--lang")
    return lang  # type: ignore[return-value]


def text(key: str, values: Mapping[str, Any] | None = None, *, lang: str) -> str:
    """Return one text with its places filled; reasons among the values become words in the same language."""
    filled = {name: _word(value, lang=lang) for name, value in (values or {}).items()}
    return TEXTS[lang][key].format(**filled)


def say(reason: Reason, *, lang: str) -> str:
    """Turn a reason into words."""
    return text(reason.key, reason.values, lang=lang)


def listed(words: Sequence[str], *, lang: str) -> str:
    """Join words as a list is written in the language."""
    if lang == "ja":
        return "、".join(words)
    if len(words) < 3:
        return " and ".join(words)
    return ", ".join(words[:-1]) + " and " + words[-1]


def _word(value: Any, *, lang: str) -> Any:
    if isinstance(value, Reason):
        return say(value, lang=lang)
    if isinstance(value, list | tuple):
        return listed([str(_word(one, lang=lang)) for one in value], lang=lang)
    return value

"""Both languages say the same: same keys, same places, and places that the code fills."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

import pytest

import wazuka.report
from wazuka.core.errors import ConfigError
from wazuka.report.texts import TEXTS, Reason, check_language, listed, say

FOLDER = Path(wazuka.report.__file__).parent


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_both_languages_have_the_same_keys() -> None:
    assert set(TEXTS["en"]) == set(TEXTS["ja"])


def test_both_languages_have_the_same_places() -> None:
    assert {key: places(text) for key, text in TEXTS["en"].items()} == {
        key: places(text) for key, text in TEXTS["ja"].items()
    }


def test_every_fixed_key_that_code_or_template_asks_for_exists() -> None:
    asked = set()
    for path in [*FOLDER.glob("*.py"), *FOLDER.glob("templates/*.html")]:
        if path.name.startswith("texts"):
            continue
        content = path.read_text(encoding="utf-8")
        asked |= set(re.findall(r"""(?:Reason|words|self|\bt)\(\s*["']([^"'{}]+)["'][,)\s]""", content))
    assert len(asked) > 100
    assert {key for key in asked if key not in TEXTS["en"] and not key.endswith(".")} == set()


def test_every_text_is_used() -> None:
    content = "".join(
        path.read_text(encoding="utf-8")
        for path in [*FOLDER.glob("*.py"), *FOLDER.glob("templates/*.html")]
        if not path.name.startswith("texts_")
    )
    prefixes = {
        "metric.", "about.", "verdict.", "gate.", "check.", "methods.", "agreement.", "costs.", "answer.use ",
        "tile.target ", "domains.intro ", "remedy.", "synthetic.add ", "synthetic.recipe ", "synthetic.way ",
        "synthetic.verdict ", "synthetic.picture ", "training.", "fidelity.",
    }  # fmt: skip
    unused = [key for key in TEXTS["en"] if f'"{key}"' not in content and f"'{key}'" not in content]
    assert [key for key in unused if not any(key.startswith(one) for one in prefixes)] == []


def test_japanese_sentences_use_japanese_punctuation() -> None:
    japanese = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
    for key, text in TEXTS["ja"].items():
        plain = re.sub(r"\{[^}]*\}|`[^`]*`", "", text)
        assert not (japanese.search(plain) and re.search(r"[(),;:?!]", plain)), key


def test_lists_are_joined_as_the_language_does() -> None:
    assert listed(["a"], lang="en") == "a"
    assert listed(["a", "b", "c"], lang="en") == "a, b and c"
    assert listed(["a", "b", "c"], lang="ja") == "a、b、c"


def test_a_reason_inside_a_reason_speaks_the_same_language() -> None:
    reason = Reason(
        "count.interval", {name: Reason("count.more than", {"value": 5}) for name in ("point", "low", "high")}
    )
    assert say(reason, lang="en") == "more than 5 (more than 5 to more than 5)"
    assert say(reason, lang="ja") == "5超（5超〜5超）"


def test_an_unknown_language_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"Unknown language `jp` in --lang\. Did you mean `ja`\? Known: `en`, `ja`\."):
        check_language("jp")

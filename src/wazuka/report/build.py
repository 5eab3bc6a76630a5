"""Build a run's report from its folder alone: two pages, `report.json` and `summary.md`. Used by `wazuka report RUN`.

    page = write_report(Path("runs/mitosis"))

Nothing is computed from images and no network is loaded, so a report can be rebuilt years later on any machine; the same
folder gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wazuka.core.errors import ConfigError
from wazuka.core.records import write_json, write_text
from wazuka.report.joint import JOINT_PAGES, render_joint
from wazuka.report.judgement import Judgement, judge
from wazuka.report.outputs import summary, to_json
from wazuka.report.page import PAGES, render_report
from wazuka.report.texts import Language, check_language

__all__ = ["Judgement", "judge", "write_joint_report", "write_report"]


def write_report(run: Path, *, lang: str | None = None) -> Path:
    """Write the report of a run into its folder.

    Args:
        run: A run folder; `final/` may be missing.
        lang: `en` or `ja`: only this page, and the summary in this language. None: both pages, the summary in English.

    Returns:
        The page in the language asked for (English for None).

    Raises:
        ArtifactError: If the folder is no run or has no finished trial.
        ConfigError: If the language is unknown.
    """
    languages = _languages(lang)
    judgement = judge(run)
    for one in languages:
        write_text(Path(run) / PAGES[one], render_report(judgement, lang=one))
    write_json(Path(run) / "report.json", to_json(judgement))
    write_text(Path(run) / "summary.md", summary(judgement, lang=languages[0]))
    return Path(run) / PAGES[languages[0]]


def write_joint_report(runs: Sequence[Path], *, lang: str | None = None, out: Path | None = None) -> Path:
    """Write one page that sets several runs side by side.

    Args:
        runs: Two or more run folders.
        lang: `en` or `ja`; None writes both.
        out: Folder of the page; None takes the first run's.

    Returns:
        The page in the language asked for (English for None).
    """
    if len(runs) < 2:
        raise ConfigError(f"{len(runs)} run is given; name two or more to set side by side.")
    languages = _languages(lang)
    judgements = [judge(one) for one in runs]
    folder = Path(out or runs[0])
    for one in languages:
        write_text(folder / JOINT_PAGES[one], render_joint(judgements, lang=one))
    return folder / JOINT_PAGES[languages[0]]


def _languages(lang: str | None) -> tuple[Language, ...]:
    return ("en", "ja") if lang is None else (check_language(lang),)

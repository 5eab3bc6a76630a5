"""Recipes: study files that come with the package, one for each paper and one for its smoke test."""

from __future__ import annotations

from pathlib import Path

from wazuka.core.config import read_yaml
from wazuka.core.errors import ConfigError, nearest

MOST_THREADS = 256
"""More than any machine makes use of, and fewer than a system refuses to start."""
FOLDER = Path(__file__).resolve().parents[1] / "recipes"


def recipes() -> dict[str, Path]:
    """Name -> file of every recipe."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def title(path: Path) -> str:
    """First comment line of a recipe."""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    return first.lstrip("# ").strip()


def study_path(text: str) -> Path:
    """The file of a study given by path or by a recipe's name.

    Raises:
        ConfigError: If it is neither.
    """
    known = recipes()
    if Path(text).is_file():
        return Path(text)
    if text in known:
        return known[text]
    if text.endswith((".yaml", ".yml")) or "/" in text:
        raise ConfigError(f"Study file {text} does not exist; give a YAML file or a recipe ({', '.join(known)}).")
    close = nearest(text, known)
    hint = f" Did you mean `{close}`?" if close else ""
    raise ConfigError(f"`{text}` is neither a study file nor a recipe.{hint} Known recipes: {', '.join(known)}.")


def threads_of(path: Path) -> int:
    """A study's `threads_per_trial`, read before NumPy and torch are imported."""
    value = read_yaml(path).get("threads_per_trial", 2)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_THREADS:
        raise ConfigError(f"{path}: `threads_per_trial` is {value!r}; give a whole number from 1 to {MOST_THREADS}.")
    return value

"""Verbs that inform: `methods`, `recipes`, `doctor`, `cite`."""

from __future__ import annotations

import typer

from wazuka.core.errors import unknown_name

methods_app = typer.Typer(help="Techniques: what there is and which settings each has.", rich_markup_mode=None)
recipes_app = typer.Typer(help="Recipes: ready study files, to run or to copy.", rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add this file's verbs to the command line."""
    app.add_typer(methods_app, name="methods")
    app.add_typer(recipes_app, name="recipes")
    app.command()(doctor)
    app.command()(cite)


def _registries() -> dict[str, object]:
    from wazuka import adapt, pretrain, synthesize

    return {"synthesize": synthesize.METHODS, "pretrain": pretrain.METHODS, "adapt": adapt.METHODS}


@methods_app.command(name="list")
def list_methods() -> None:
    """List every technique with its role and one line on it.

    Example: wazuka methods list
    """
    for role, registry in _registries().items():
        for name, method in registry.items():  # type: ignore[attr-defined]
            print(f"{role}\t{name}\t{method.summary}")


@methods_app.command(name="show")
def show_method(name: str = typer.Argument(..., help="Name of a technique.")) -> None:
    """Show one technique's settings with their defaults, as they are written in a study file.

    Example: wazuka methods show linear-probe
    """
    from wazuka.core.config import describe_fields

    known: list[str] = []
    for role, registry in _registries().items():
        known += list(registry)  # type: ignore[call-overload]
        if name in registry:  # type: ignore[operator]
            method = registry[name]  # type: ignore[index]
            print(f"{name} ({role}): {method.summary}")
            for key, kind, default, text in describe_fields(method.config):
                print(f"{key}\t{kind}\t{default}\t{text}")
            for reference in method.cites:
                print(f"cite\t{reference}")
            return
    raise unknown_name("method", name, sorted(known))


@recipes_app.command(name="list")
def list_recipes() -> None:
    """List the recipes with one line on each.

    Example: wazuka recipes list
    """
    from wazuka.study.recipes import recipes, title

    for name, path in recipes().items():
        print(f"{name}\t{title(path)}")


@recipes_app.command(name="show")
def show_recipe(name: str = typer.Argument(..., help="Name of a recipe.")) -> None:
    """Print a recipe's study file, to copy and change.

    Example: wazuka recipes show spine-smoke > study.yaml
    """
    from wazuka.study.recipes import recipes

    known = recipes()
    if name not in known:
        raise unknown_name("recipe", name, sorted(known))
    print(known[name].read_text(encoding="utf-8"), end="")


def doctor() -> int:
    """Look at this machine: what is installed, which device, room on the disk, weights that are here. 1 if unusable.

    Example: wazuka doctor
    """
    from wazuka.study.doctor import examine

    rows = examine()
    for row in rows:
        print(f"{row.outcome}\t{row.name}\t{row.text}")
    return 1 if any(row.outcome == "missing" for row in rows) else 0


def cite() -> None:
    """Print the references of Wazuka's techniques and statistics.

    Example: wazuka cite
    """
    from wazuka.study.citations import references

    for line in references():
        print(line)

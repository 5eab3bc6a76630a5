"""The first screen of the report: what to do, how sure that is, where it holds, what to do next. In plain words."""

from __future__ import annotations

from typing import Any

from wazuka.report.judgement import Judgement, Row, headline
from wazuka.report.texts import Reason
from wazuka.report.words import DASH, Words, minus


def make_answer(judgement: Judgement, words: Words) -> dict[str, Any]:
    """Return the context of the answer box."""
    parts = [
        {"title": words("answer.what"), "lines": what_to_do(judgement, words), "listed": False},
        {"title": words("answer.how sure"), "lines": how_sure(judgement, words), "listed": False},
        {"title": words("answer.scope"), "lines": scope(judgement, words), "listed": False},
        {
            "title": words("answer.next"),
            "lines": [words.say(one) for one in judgement.next_stage.reasons],
            "listed": True,
        },
    ]
    return {
        "adopted": judgement.adopted is not None,
        "headline": words.say(headline(judgement)),
        "tiles": _tiles(judgement, words),
        "parts": [part for part in parts if part["lines"]],
    }


def what_to_do(judgement: Judgement, words: Words) -> list[str]:
    """Say which model to use from now on, and how well it does on new patients."""
    row = judgement.shown
    name = row.strategy if judgement.adopted is not None else judgement.run.baseline
    final = judgement.run.final
    unfinished = "" if final is not None and final.get("strategy") == name else " unfinished"
    if judgement.adopted is not None:
        values: dict[str, Any] = {"name": name, "budget": words.budget(_first_adopted(judgement, row).cell)}
        lines = [words(f"answer.use adopted{unfinished}", values)]
    elif judgement.waiting is not None:
        gates = [gate.title for gate in judgement.waiting.decision.waits_for]
        name = judgement.waiting.strategy
        lines = [words("answer.use waiting", {"name": name, "gates": gates, "baseline": judgement.run.baseline})]
    else:
        lines = [words(f"answer.use baseline{unfinished}", {"name": name})]
    best = judgement.largest(name)
    if best is not None and best.cell.score is not None:
        score = best.cell.score
        values = {"estimate": score.estimate, "low": score.low, "high": score.high, "labels": best.cell.labels}
        lines.append(
            minus(words("answer.score", values | {"name": name, "metric": words.metric(judgement.run.metric)}))
        )
    return lines


def how_sure(judgement: Judgement, words: Words) -> list[str]:
    """Say what the answer rests on, and what casts doubt on it."""
    run, row = judgement.run, judgement.shown
    lines = []
    if judgement.adopted is not None:
        lines.append(words("answer.sure adopt", {"reason": words.say(judgement.adopted.decision.reasons[0])}))
    else:
        best = judgement.waiting or closest(judgement)
        if best is not None:
            key = "answer.sure against" if best.decision.verdict == "do not adopt" else "answer.sure open"
            row_words = {"name": best.strategy, "budget": words.budget(best.cell), "reason": best.decision.reasons[0]}
            lines.append(words(key, {"reason": Reason("answer.row", row_words)}))
            if judgement.waiting is None:
                lines.append(words("answer.sure keep"))
    cell = row.cell
    lines.append(
        words("answer.evidence", {"patients": cell.n_patients, "images": cell.n_images, "repeats": cell.repeats})
    )
    if run.data.get("card", {}).get("patient_source") == "image":
        lines.append(words("answer.one patient each"))
    transductive = [one["what"] for one in run.plan.get("not_measured", []) if "unlabeled test images" in one["why"]]
    if transductive:
        lines.append(words("answer.transductive", {"names": transductive}))
    if run.transductive:
        lines.append(words("answer.test time", {"names": list(run.transductive)}))
    issues = [one for one in run.data.get("checks") or [] if one["outcome"] == "issue"]
    if issues:
        names = [f"{one['code']} {one['name']}" for one in issues]
        lines.append(words("answer.issues", {"count": len(issues), "names": names}))
    missing = len(run.failures) + len(run.unfinished)
    if missing:
        lines.append(words("answer.failed", {"count": missing}))
    return [minus(line) for line in lines]


def scope(judgement: Judgement, words: Words) -> list[str]:
    """Name the domains that the answer holds for."""
    if judgement.adopted is not None:
        return [words.sentence(judgement.adopted.decision.reasons[-1])]
    names = list(judgement.estimates.domains)
    if len(names) < 2:
        reason = Reason("verdict.one domain named", {"name": names[0]}) if names else Reason("verdict.one domain")
        return [words.sentence(reason)]
    return [words("answer.tested", {"names": names})]


def closest(judgement: Judgement) -> Row | None:
    """The strategy nearest to adoption among those not adopted: open before refused, then the largest difference."""
    rivals = [row for row in judgement.rows if not row.is_baseline]

    def worth(row: Row) -> tuple[bool, float, int]:
        difference = row.cell.difference
        return (
            row.decision.verdict == "not enough evidence",
            difference.estimate if difference else float("-inf"),
            row.cell.labels,
        )

    return max(rivals, key=worth) if rivals else None


def _first_adopted(judgement: Judgement, row: Row) -> Row:
    """The smallest budget from which on the strategy is adopted at every budget."""
    own = sorted((one for one in judgement.rows if one.strategy == row.strategy), key=lambda one: one.cell.labels)
    first = row
    for one in reversed(own):
        if one.cell.labels > row.cell.labels:
            continue
        if one.decision.verdict != "adopt":
            break
        first = one
    return first


def _tiles(judgement: Judgement, words: Words) -> list[dict[str, str]]:
    """Four figures to remember."""
    run, row = judgement.run, judgement.shown
    cell, metric = row.cell, words.metric(judgement.run.metric)
    tiles = [_score_tile(row, metric, words)]
    rival = row if not row.is_baseline else closest(judgement)
    if rival is not None and rival.cell.difference is not None:
        one = rival.cell.difference
        name = "" if rival is row else f" ({rival.strategy})"
        how = words("tile.adjusted", {"low": one.low, "high": one.high})
        at = words("tile.at", {"budget": words.budget(rival.cell)})
        tiles.append(
            {
                "what": words("tile.difference") + name,
                "value": minus(f"{one.estimate:+.3f}"),
                "how": words("tile.joined", {"first": how, "second": at}) if rival is not row else how,
            }
        )
    most = _most_saved(judgement, row)
    if most is not None and most.cell.labels_saved is not None:
        how = words("tile.at", {"budget": words.budget(most.cell)})
        tiles.append({"what": words("tile.saved"), "value": words.saved(most.cell.labels_saved), "how": how})
    if run.target is not None and cell.score is not None:
        tiles.append(_target_tile(judgement, row, words))
    patients = f"{cell.n_patients:,}" if cell.n_patients else DASH
    tiles.append(
        {"what": words("tile.patients"), "value": patients, "how": words("tile.repeats", {"repeats": cell.repeats})}
    )
    return [tile | {"how": minus(tile["how"])} for tile in tiles[:4]]


def _score_tile(row: Row, metric: str, words: Words) -> dict[str, str]:
    score = row.cell.score
    what = words("tile.score", {"metric": metric, "name": row.strategy})
    if score is None:
        return {"what": what, "value": DASH, "how": words("not measured")}
    how = words("tile.interval", {"low": score.low, "high": score.high})
    at = words("tile.at", {"budget": words.budget(row.cell)})
    return {
        "what": what,
        "value": minus(f"{score.estimate:.3f}"),
        "how": words("tile.joined", {"first": how, "second": at}),
    }


def _target_tile(judgement: Judgement, row: Row, words: Words) -> dict[str, str]:
    target, score = judgement.run.target, row.cell.score
    assert target is not None and score is not None
    sign = 1 if judgement.estimates.higher_is_better else -1
    bound = score.low if sign > 0 else score.high
    state = "not shown" if sign * (score.estimate - target) >= 0 else "not met"
    if sign * (bound - target) >= 0:
        state = "met"
    how = words("tile.at", {"budget": words.budget(row.cell)})
    return {"what": words("tile.target", {"target": target}), "value": words(f"tile.target {state}"), "how": how}


def _most_saved(judgement: Judgement, row: Row) -> Row | None:
    """The budget at which the shown strategy saves most labels; None where it saves none for sure."""
    found = []
    for one in judgement.rows:
        count = one.cell.labels_saved
        if one.strategy != row.strategy or count is None:
            continue
        sure = count.more_than if count.low is None else count.low
        if sure > 0:
            found.append((count.more_than if count.estimate is None else count.estimate, one))
    return max(found, key=lambda pair: pair[0])[1] if found else None

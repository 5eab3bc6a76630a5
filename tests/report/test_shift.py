"""Domains, local labels, remedies, label scaling and licenses in a report: figures against scikit-learn, and their maps."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from tests.report.fake_run import FakeRun, make
from tests.report.test_report import Page, report
from wazuka.report.build import judge, write_report
from wazuka.report.figures import styles
from wazuka.report.licenses import ledger
from wazuka.report.run_folder import read_run
from wazuka.report.sections import missing
from wazuka.report.shift import remedy_pairs
from wazuka.report.shift_figures import HeatCell, LocalSeries, color_range, fill, heat_map, local_curves
from wazuka.report.verdict import Bounds
from wazuka.report.words import Words

DOMAINS = ("XR", "CS2")
TEXTS = {"title": "a <b>", "description": "d", "trained": "trained", "tested": "tested", "better": "darker", "x": "x"}


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each-to-each with two scanners, local labels, two remedies and three backbones of different terms."""
    fake = FakeRun(
        strategies={"base": 0.8, "stained": 1.0, "adapted": 1.0, "balanced": 0.9},
        budgets=("20", "60"),
        repeats=2,
        patients=60,
        images_per_patient=3,
        domains=DOMAINS,
        test_share=0.5,
        each_to_each=True,
        loss=1.2,
        entries={
            "base": {"local_labels": [10, 40]},
            "stained": {"image": {"stain": "macenko"}},
            "adapted": {"remedies": ["test-batchnorm"]},
            "balanced": {"remedies": ["domain-balanced"], "local_labels": [10, 40]},
        },
        backbones=(
            {"name": "uni", "license": "CC-BY-NC-ND-4.0", "commercial_use": "no", "source": "hub/uni", "gated": True},
            {"name": "/home/doctor/own.safetensors", "license": "unknown", "commercial_use": "unknown", "source": ""},
            {"name": "uni", "license": "unknown", "commercial_use": "unknown", "source": "/home/doctor/uni.bin"},
        ),
    )
    run = make(tmp_path_factory.mktemp("runs") / "shifted", fake)
    write_report(run)
    return run


def aurocs(run: Path) -> pd.DataFrame:
    """scikit-learn's AUROC of every trial and test domain."""
    rows = []
    for path in (run / "trials").glob("*/record.json"):
        record = json.loads(path.read_text())
        for domain, table in pd.read_parquet(path.parent / "predictions.parquet").groupby("test_domain"):
            value = roc_auc_score(table["label"] == "atypical", table["p_atypical"])
            names = ("strategy", "budget", "repeat", "train_domain", "local_labels")
            rows.append({name: record[name] for name in names} | {"tested": domain, "value": value})
    return pd.DataFrame(rows)


def test_the_matrix_and_its_gap_are_means_of_scikit_learn_scores(shifted: Path) -> None:
    found, scores = report(shifted)["domains"], aurocs(shifted)
    assert found["rule"] == "each-to-each"
    for name, one in found["strategies"].items():
        own = scores[(scores["strategy"] == name) & (scores["budget"] == "60") & (scores["local_labels"] == 0)]
        means = own.groupby(["train_domain", "tested"])["value"].mean()
        assert len(one["cells"]) == 4
        for cell in one["cells"]:
            assert cell["estimate"] == pytest.approx(means[cell["trained"], cell["tested"]], abs=2e-6)
            assert cell["low"] < cell["estimate"] < cell["high"]
        inside = own[own["train_domain"] == own["tested"]]["value"].mean()
        outside = own[own["train_domain"] != own["tested"]]["value"].mean()
        assert one["in_domain"]["estimate"] == pytest.approx(inside, abs=2e-6)
        assert one["gap"]["estimate"] == pytest.approx(inside - outside, abs=2e-6)
        assert one["gap"]["low"] > 0


def test_local_labels_are_scored_per_target_against_the_in_domain_models(shifted: Path) -> None:
    scores = aurocs(shifted)
    entries = report(shifted)["domains"]["local_labels"]
    places = {(one["strategy"], one["budget"], one["target"]) for one in entries}
    names, budgets = ("base", "balanced"), ("20", "60")
    assert places == {(name, budget, target) for name in names for budget in budgets for target in (*DOMAINS, None)}
    for one in entries:
        own = scores[(scores["strategy"] == one["strategy"]) & (scores["budget"] == one["budget"])]
        if one["target"]:
            own = own[own["tested"] == one["target"]]
        inside = own[own["train_domain"] == own["tested"]]["value"].mean()
        assert one["in_domain"]["estimate"] == pytest.approx(inside, abs=2e-6)
        assert [point["local_labels"] for point in one["points"]] == [0, 10, 40]
        for point in one["points"]:
            adapted = own[(own["train_domain"] != own["tested"]) & (own["local_labels"] == point["local_labels"])]
            assert point["estimate"] == pytest.approx(adapted["value"].mean(), abs=2e-6)
            assert point["gap"] == pytest.approx(inside - adapted["value"].mean(), abs=3e-6)
        assert 0 <= one["reached"] <= 1 and one["needed"]["more_than"] == 40


def test_trials_with_local_labels_change_nothing_else(shifted: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(shifted, tmp_path / "shifted"))
    plan = json.loads((run / "plan.json").read_text())
    plan["trials"] = [one for one in plan["trials"] if one["local_labels"] == 0]
    (run / "plan.json").write_text(json.dumps(plan))
    results = pd.read_parquet(run / "results.parquet")
    results[results["local_labels"] == 0].to_parquet(run / "results.parquet", index=False)
    write_report(run)
    with_local, without = report(shifted), report(run)
    for key in ("strategies", "label_scaling", "answer", "next_stage"):
        assert with_local[key] == without[key]
    assert without["domains"].pop("local_labels") == [] and with_local["domains"].pop("local_labels")
    balanced = with_local["domains"]["remedies"].pop()
    assert balanced["remedy"] == "domain-balanced"  # compared on local labels only
    assert with_local["domains"] == without["domains"]
    texts = [(one / "report.html").read_text(encoding="utf-8") for one in (shifted, run)]
    assert [text.count('id="local"') for text in texts] == [1, 0]
    errors = [text[text.index('id="errors"') : text.index('id="domains"')] for text in texts]
    assert errors[0] == errors[1]


def test_label_scaling_stands_in_table_sentence_and_json(shifted: Path) -> None:
    found = report(shifted)
    rows = {(one["name"], one["budget"]): one["estimate"] for one in found["strategies"]}
    for name, one in found["label_scaling"].items():
        small, full = one["own"]["points"]
        assert small["of_score"]["estimate"] == pytest.approx(rows[name, "20"] / rows[name, "60"], abs=1e-5)
        assert (full["of_score"]["estimate"], small["share_of_labels"]) == (1.0, pytest.approx(1 / 3, abs=1e-6))
        assert (one["baseline"] is None) == (name == "base")
    content = (shifted / "report.html").read_text(encoding="utf-8")
    assert 'id="scaling"' in content and "full-data AUROC" in content
    assert "偶然水準を除く" in (shifted / "report.ja.html").read_text(encoding="utf-8")


def test_remedies_are_compared_with_the_strategy_that_lacks_only_them(shifted: Path) -> None:
    scores = aurocs(shifted)
    own = scores[(scores["budget"] == "60") & (scores["local_labels"] == 0)]
    means = own.groupby(["strategy", own["train_domain"] == own["tested"]])["value"].mean()
    found = {one["remedy"]: one for one in report(shifted)["domains"]["remedies"]}
    assert {name: (one["with"], one["without"]) for name, one in found.items()} == {
        "macenko": ("stained", "base"),
        "test-batchnorm": ("adapted", "base"),
        "domain-balanced": ("balanced", "base"),
    }
    balanced = found.pop("domain-balanced")  # on one domain there is nothing to balance: with labels of the target
    local = scores[(scores["budget"] == "60") & (scores["local_labels"] == 40)].groupby("strategy")["value"].mean()
    assert balanced["local_labels"] == 40 and balanced["in_domain"] is None
    assert balanced["out_of_domain"]["estimate"] == pytest.approx(local["balanced"] - local["base"], abs=3e-6)
    for one in found.values():
        inside, outside = (means[one["with"], here] - means["base", here] for here in (True, False))
        assert one["in_domain"]["estimate"] == pytest.approx(inside, abs=3e-6)
        assert one["out_of_domain"]["estimate"] == pytest.approx(outside, abs=3e-6)
        assert one["overall"]["estimate"] == pytest.approx((inside + outside) / 2, abs=3e-6)


def test_a_transductive_strategy_is_named_so_in_every_table(shifted: Path) -> None:
    for name, label in (("report.html", "adapted (transductive)"), ("report.ja.html", "adapted（トランスダクティブ）")):
        content = (shifted / name).read_text(encoding="utf-8")
        assert content.count(label) >= 10
        tables = re.findall(r"<t[dh][^>]*>(?:<span[^>]*>)*(?:<svg.*?</svg> ?)?(?:<span>)?(adapted[^<]*)<", content)
        assert tables and all(one.startswith(label) for one in tables), tables
    rows = {one["name"]: one["transductive"] for one in report(shifted)["strategies"]}
    assert rows == {"base": False, "stained": False, "adapted": True, "balanced": False}
    assert "adapted (transductive)" in (shifted / "summary.md").read_text(encoding="utf-8")


def test_the_ledger_lists_each_weights_once_and_warns_where_terms_forbid_or_are_unknown(shifted: Path) -> None:
    found = report(shifted)["licenses"]
    assert [(one["name"], one["commercial_use"], one["gated"]) for one in found] == [
        ("mobilenetv1-025", "yes", None),
        ("uni", "no", True),
        ("own.safetensors", "unknown", None),
        ("uni", "unknown", None),
    ]
    assert [one["strategies"] for one in found] == [["balanced"], ["base"], ["stained"], ["adapted"]]
    for name in ("report.html", "report.ja.html", "report.json"):
        assert "/home/doctor" not in (shifted / name).read_text(encoding="utf-8")
    page = (shifted / "report.html").read_text(encoding="utf-8")
    assert "Not for commercial use: uni (license: CC-BY-NC-ND-4.0)." in page
    assert "own.safetensors (license: unknown) and uni (license: unknown). Clear it before" in page
    assert "商用利用は認められていません：uni（ライセンス：CC-BY-NC-ND-4.0）。" in (
        shifted / "report.ja.html"
    ).read_text(encoding="utf-8")


def test_what_a_step_recorded_completes_the_plan_of_a_backbone(shifted: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(shifted, tmp_path / "shifted"))
    folder = run / "artifacts" / "encoder" / "cc1"
    folder.mkdir(parents=True)
    (folder / "encoder.json").write_text(json.dumps({"source": "a colleague", "gated": False}))
    (folder / "record.json").write_text(json.dumps({"seconds": 1.0, "license": "MIT", "commercial_use": "yes"}))
    one = ledger(read_run(run))[2]
    assert (one.license, one.commercial_use, one.source, one.gated) == ("MIT", "yes", "a colleague", False)


def test_the_final_model_has_its_latency_memory_and_size(shifted: Path) -> None:
    page = (shifted / "report.html").read_text(encoding="utf-8")
    facts = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", page))
    assert facts["Time for one image (median; 95th percentile)"] == "12.1 ms; 15.8 ms"
    assert (facts["Memory at the peak"], facts["Size of its file"]) == ("734 MiB", "1.90 MB")


@pytest.mark.parametrize("name", ["report.html", "report.ja.html"])
def test_the_page_has_a_heat_map_per_strategy_and_a_figure_per_target(shifted: Path, name: str) -> None:
    page = Page(shifted / name)
    figures = [one for one in page.of("svg") if one.get("class") == "figure"]
    assert len(figures) == 4 + 4 + 2 and all(one["role"] == "img" and one["aria-label"] for one in figures)
    ids = [one["id"] for _, one in page.tags if one.get("id")]
    assert len(ids) == len(set(ids)) and {"matrix", "local", "remedies", "scaling"} <= set(ids)
    assert "None" not in re.sub(r"<style>.*?</style>|default-src 'none'", "", page.content, flags=re.DOTALL)


def test_leave_one_out_is_a_row_and_lower_is_better_has_no_label_scaling(tmp_path: Path) -> None:
    fake = FakeRun(
        strategies={"base": 0.5, "other": 1.0},
        budgets=("20", "60"),
        repeats=2,
        patients=40,
        images_per_patient=3,
        domains=DOMAINS,
        leave_one_out=True,
        goal={"metric": "brier", "margin": 0.01},
        final=False,
    )
    page = write_report(make(tmp_path / "run", fake)).read_text(encoding="utf-8")
    found = report(tmp_path / "run")
    cells = found["domains"]["strategies"]["base"]["cells"]
    assert [(one["trained"], one["tested"]) for one in cells] == [("not:", "CS2"), ("not:", "XR")]
    assert found["domains"]["strategies"]["base"]["gap"] is None
    assert "all others" in page and found["label_scaling"] == {} and 'id="scaling"' not in page
    assert judge(tmp_path / "run").estimates.shift.ablations == ()


def test_a_missing_trial_with_local_labels_is_named_with_them(shifted: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(shifted, tmp_path / "shifted"))
    trial = next(one for one in json.loads((run / "plan.json").read_text())["trials"] if one["local_labels"] == 40)
    (run / "trials" / trial["key"] / "record.json").unlink()
    found: Any = SimpleNamespace(run=read_run(run))  # the section looks at the folder only
    assert missing(found, Words("en"))[1]["what"] == "base, 20, repeat 1, trained on XR with 40 labels of CS2"


# --- pairs ---------------------------------------------------------------------------------------------------------


def entry(*remedies: str, stain: str = "none", **more: Any) -> dict[str, Any]:
    return {"backbone": "uni", "remedies": list(remedies), "image": {"size": 224, "stain": stain}} | more


def test_pairs_differ_in_exactly_one_remedy_and_in_nothing_that_is_trained() -> None:
    strategies = {
        "plain": entry(budgets=["20"]),
        "jitter": entry("stain-jitter", repeats=3, local_labels=[10]),
        "both": entry("stain-jitter", stain="macenko"),
        "reinhard": entry(stain="reinhard"),
        "other network": entry("randaugment", backbone="resnet18"),
        "other size": entry("randaugment") | {"image": {"size": 96}},
    }
    assert remedy_pairs(strategies) == [
        ("stain-jitter", "jitter", "plain"),
        ("macenko", "both", "jitter"),
        ("reinhard", "reinhard", "plain"),
    ]


# --- figures -------------------------------------------------------------------------------------------------------


@given(st.floats(0, 1))
def test_text_in_a_cell_stands_out_from_its_color(share: float) -> None:
    def luminance(color: str) -> float:
        parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        light = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
        return 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]

    dark, light = sorted(luminance(color) for color in fill(share))
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_close_scores_do_not_get_the_whole_color_scale() -> None:
    assert color_range([0.80, 0.81]) == pytest.approx((0.755, 0.855))
    assert color_range([0.5, 0.9]) == (0.5, 0.9)


@pytest.mark.parametrize("higher", [True, False])
def test_a_heat_map_is_darker_where_scores_are_better_and_frames_the_diagonal(higher: bool) -> None:
    values = np.array([[0.9, 0.6], [0.7, 0.8]])
    cells = [HeatCell(row, column, values[row, column], "0.5–1.0") for row in (0, 1) for column in (0, 1)]
    svg = heat_map(
        cells,
        ["x", "<y>"],
        ["x", "a long name with spaces"],
        span=(0.6, 0.9),
        higher_is_better=higher,
        diagonal=[(0, 0), (1, 1)],
        texts=TEXTS,
    )
    root = ET.fromstring(str(svg))
    boxes = [one for one in root.iter("rect") if one.get("stroke") == "#fff"]
    reds = np.array([int((one.get("fill") or "")[1:3], 16) for one in boxes]).reshape(2, 2)
    assert (np.argsort(reds.ravel()) == np.argsort((-values if higher else values).ravel())).all()
    frames = [one for one in root.iter("rect") if one.get("fill") == "none"]
    corners = {(float(one.get("x") or 0) - 2, float(one.get("y") or 0) - 2) for one in frames}
    assert corners == {(float(one.get("x") or 0), float(one.get("y") or 0)) for one in (boxes[0], boxes[3])}
    shown = [one.text for one in root.iter("text")]
    assert {"0.900", "0.600", "0.700", "0.800", "<y>", "a long name", "with spaces"} <= set(shown)


def test_a_cell_without_a_score_is_a_dash() -> None:
    svg = heat_map(
        [HeatCell(0, 0, 0.8, "")], ["x"], ["x", "y"], span=(0.7, 0.9), higher_is_better=True, diagonal=[], texts=TEXTS
    )
    assert [one.text for one in ET.fromstring(str(svg)).iter("text")].count("–") == 1


def test_local_curves_start_at_no_local_labels_and_stay_inside() -> None:
    points = tuple((n, Bounds(value, value - 0.1, value + 0.05)) for n, value in ((0, 0.6), (10, 0.7), (100, 0.8)))
    series = [LocalSeries(style, points, 0.85) for style in styles(["base", "b"], "base").values()]
    texts = TEXTS | {"y": "AUROC"}
    svg = local_curves(series, extent_of=[one for _, one in points], references=[0.85], texts=texts)
    root = ET.fromstring(str(svg))
    _, _, width, height = map(float, (root.get("viewBox") or "").split())
    places = [
        tuple(map(float, pair.split(","))) for one in root.iter("polyline") for pair in one.get("points", "").split()
    ]
    assert len(places) == 6 and all(0 <= x <= width and 0 <= y <= height for x, y in places)
    first, second, last = (x for x, _ in places[:3])
    assert (second - first) / (last - first) == pytest.approx(np.log(11) / np.log(101), abs=1e-3)
    dotted = [one for one in root.iter("line") if one.get("stroke-dasharray")]
    assert len(dotted) == 2 and all(float(one.get("y1") or 0) < min(y for _, y in places) for one in dotted)

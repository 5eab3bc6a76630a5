"""Synthetic images in a report: the matrix against scikit-learn, verdicts, audits, the memorization gate, costs, pages."""

from __future__ import annotations

import base64
import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score, roc_auc_score

from tests.report.fake_run import FakeRun, make
from tests.report.test_report import Page, report
from wazuka.report.audits import PICTURE_BYTES, data_uri, judge_memorization, worst
from wazuka.report.build import write_report
from wazuka.report.judgement import _seconds
from wazuka.report.run_folder import read_run
from wazuka.report.synthetic import Recipe, counterpart, judge_addition, recipe_of
from wazuka.report.synthetic_figures import training_curve
from wazuka.report.verdict import Bounds

GAN = {"method": "toy"}
ENTRIES: dict[str, dict[str, Any]] = {
    "half": {"synthesize": GAN, "ratio": 0.5},
    "both": {"synthesize": GAN},
    "bad": {"synthesize": GAN | {"memorization": "warning"}, "train_on": "synthetic-then-real"},
    "only": {"synthesize": GAN, "train_on": "synthetic"},
    "rare": {"synthesize": GAN, "classes": "rare-only", "ratio": 2},
    "copies": {"synthesize": GAN | {"memorization": "issue"}, "ratio": 3},
}
SKILLS = {"probe": 0.6, "half": 0.6, "both": 3.0, "bad": -0.4, "only": 0.2, "rare": 0.8, "copies": 0.6}
BUDGETS = ("20", "60")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every way to train on synthetic images, two budgets, two repeats."""
    fake = FakeRun(
        strategies=SKILLS,
        budgets=BUDGETS,
        repeats=2,
        patients=60,
        images_per_patient=3,
        domains=(),
        test_share=0.5,
        entries=ENTRIES,
        gates={"memorization": "pass"},
        noise=0.6,
    )
    run = make(tmp_path_factory.mktemp("runs") / "mixed", fake)
    write_report(run)
    return run


@pytest.fixture(scope="module")
def scores(mixed: Path) -> pd.DataFrame:
    """scikit-learn's scores of every trial, on real and on synthetic images."""
    rows = []
    for path in (mixed / "trials").glob("*/record.json"):
        record = json.loads(path.read_text())
        table = pd.read_parquet(path.parent / "predictions.parquet")
        for synthetic, some in table.groupby(table["test_domain"] == "synthetic"):
            truth, found = some["label"] == "atypical", some["predicted"] == "atypical"
            rows.append(
                {name: record[name] for name in ("strategy", "budget", "repeat")}
                | {
                    "part": "synthetic" if synthetic else "real",
                    "auroc": roc_auc_score(truth, some["p_atypical"]),
                    "accuracy": accuracy_score(truth, found),
                    "balanced_accuracy": balanced_accuracy_score(truth, found),
                    "sensitivity": recall_score(truth, found),
                    "specificity": recall_score(~truth, ~found),
                }
            )
    return pd.DataFrame(rows)


def test_every_cell_of_the_matrix_is_the_mean_of_scikit_learn_scores(mixed: Path, scores: pd.DataFrame) -> None:
    expected = scores.groupby(["strategy", "budget", "part"]).mean(numeric_only=True)
    matrix = report(mixed)["synthetic"]["matrix"]
    assert [(one["budget"], one["strategy"]) for one in matrix] == [(b, s) for b in BUDGETS for s in SKILLS]
    for one in matrix:
        for part in ("real", "synthetic"):
            assert set(one[part]) == {"auroc", "accuracy", "balanced_accuracy", "sensitivity", "specificity"}
            for metric, found in one[part].items():
                value = expected.loc[(one["strategy"], one["budget"], part), metric]
                assert found["estimate"] == pytest.approx(value, abs=2e-6)
                assert found["low"] <= found["estimate"] <= found["high"] and found["repeats"] == 2
        assert one["synthetic"]["auroc"]["n_patients"] == one["synthetic_images"] == 2 * 90


def test_the_papers_tasks_are_those_of_real_and_of_synthetic_training(mixed: Path) -> None:
    tasks = {one["strategy"]: one["paper_tasks"] for one in report(mixed)["synthetic"]["matrix"]}
    assert tasks["probe"] == {"real": 1, "synthetic": 3} and tasks["only"] == {"real": 4, "synthetic": 2}
    assert {name for name, one in tasks.items() if one} == {"probe", "only"}


def test_gaps_and_additions_are_paired_differences_to_the_equal_strategy(mixed: Path, scores: pd.DataFrame) -> None:
    own = scores.query("part == 'real'").set_index(["budget", "strategy", "repeat"]).sort_index()
    found = report(mixed)["synthetic"]
    for one in found["gaps"]:
        assert (one["strategy"], one["real_strategy"]) == ("only", "probe")
        for metric, value in (("auroc", one), ("accuracy", one["accuracy"])):
            losses = own.loc[(one["budget"], "probe"), metric] - own.loc[(one["budget"], "only"), metric]
            assert value["estimate"] == pytest.approx(losses.mean(), abs=2e-6)
    assert len(found["gaps"]) == 2
    names = ["half", "both", "bad", "rare", "copies"]
    assert [(one["budget"], one["strategy"]) for one in found["adds"]] == [(b, s) for b in BUDGETS for s in names]
    for one in found["adds"]:
        gains = own.loc[(one["budget"], one["strategy"]), "auroc"] - own.loc[(one["budget"], "probe"), "auroc"]
        assert one["estimate"] == pytest.approx(gains.mean(), abs=2e-6)
        assert one["comparisons"] == 5
        assert one["adjusted_low"] <= one["low"] <= one["high"] <= one["adjusted_high"]
    verdicts = {one["strategy"]: one["verdict"] for one in found["adds"] if one["budget"] == "60"}
    assert verdicts["both"] == "helps" and verdicts["bad"] == "hurts"
    assert {one["budget"]: one["verdict"] for one in found["verdicts"]} == {"20": "helps", "60": "helps"}


def test_the_rarest_class_is_the_one_that_images_were_planned_of(mixed: Path, scores: pd.DataFrame) -> None:
    own = scores.query("part == 'real'").groupby(["budget", "strategy"])["sensitivity"].mean()
    for one in report(mixed)["synthetic"]["rare"]:
        assert (one["strategy"], one["real_strategy"], one["class"]) == ("rare", "probe", "atypical")
        assert one["before"]["estimate"] == pytest.approx(own[one["budget"], "probe"], abs=2e-6)
        assert one["after"]["estimate"] == pytest.approx(own[one["budget"], "rare"], abs=2e-6)
        change = one["after"]["estimate"] - one["before"]["estimate"]
        assert one["change"]["estimate"] == pytest.approx(change, abs=2e-6)


def test_audits_stand_per_generator_with_who_uses_it(mixed: Path) -> None:
    audits = report(mixed)["synthetic"]["audits"]
    users = {tuple(one["strategies"]) for one in audits}
    assert users == {("half", "both", "only", "rare"), ("bad",), ("copies",)} and len(audits) == 3 * 2 * 2
    shared = next(one for one in audits if one["strategies"][0] == "half")
    assert sorted(sum(pool["wanted"].values()) for pool in shared["pools"]) == [30, 30, 40]
    assert shared["fidelity"]["scores"]["frechet"]["matched"] == 1.75
    assert [one["code"] for one in shared["checks"]] == ["WZ201", "WZ203", "WZ211"]
    assert [one["repeat"] for one in audits[:4]] == [0, 1, 0, 1]


def test_the_memorization_gate_blocks_copies_and_lets_a_warning_pass(mixed: Path) -> None:
    gates = {one["name"]: one["gates"][0]["outcome"] for one in report(mixed)["strategies"] if one["budget"] == "60"}
    assert gates["probe"].startswith("not applicable")
    assert (gates["both"], gates["bad"], gates["copies"]) == ("met", "met", "not met")
    rows = {(one["name"], one["budget"]): one for one in report(mixed)["strategies"]}
    assert rows["copies", "60"]["verdict"] == "do not adopt"
    assert rows["bad", "60"]["gates"][0]["detail"] == "memorization check: warning"


def test_copies_block_a_strategy_that_is_better_also_where_no_gate_asks_unless_waived(tmp_path: Path) -> None:
    verdicts = {}
    for name, gates in (("unasked", {}), ("waived", {"memorization": "waived"})):
        fake = FakeRun(
            strategies={"probe": 0.6, "copies": 3.0},
            budgets=("60",),
            repeats=2,
            patients=60,
            images_per_patient=3,
            domains=(),
            test_share=0.5,
            entries={"copies": ENTRIES["copies"]},
            gates=gates,
            noise=0.6,
        )
        run = make(tmp_path / name, fake)
        write_report(run)
        (verdicts[name],) = (one["verdict"] for one in report(run)["strategies"] if one["name"] == "copies")
    assert verdicts == {"unasked": "do not adopt", "waived": "adopt"}


def test_a_strategy_pays_for_its_generator_and_one_that_is_only_tested_on_it_does_not(mixed: Path) -> None:
    run = read_run(mixed)
    cost = {one.strategy: _seconds(run, one.record) for one in run.trials if one.budget == "60"}
    # trial 2 s, encoder 1 s and adapt 30 s, shared by 75 problems; images 40 s, training 500 s
    assert cost["probe"] == pytest.approx(2 + 31 / 75)
    for name in ENTRIES:
        assert cost[name] == pytest.approx(2 + 31 / 75 + 540)


def test_summary_and_both_pages_say_it(mixed: Path) -> None:
    summary = (mixed / "summary.md").read_text(encoding="utf-8")
    assert "- With 60 labels, synthetic data helps: both +" in summary
    assert "- With 60 labels, synthetic data hurts: bad " in summary
    assert "instead of real ones (probe), a model loses" in summary
    assert "Memorization check of 12 generators: issue 4, warning 4 and passed 4." in summary
    for name in ("report.html", "report.ja.html"):
        page = Page(mixed / name)
        ids = [one["id"] for _, one in page.tags if one.get("id")]
        assert len(ids) == len(set(ids))
        assert {"synthetic", "adds", "ratios", "gaps", "rare", "audits", "fidelity", "filtering"} | {
            "synthetic-checks"
        } <= set(ids)
        assert any(one["href"] == "#synthetic" for one in page.of("a"))
        assert "WZ201 <b>" not in page.content and "WZ201 &lt;b&gt;" in page.content
        assert "None" not in re.sub(r"<style>.*?</style>|default-src 'none'", "", page.content, flags=re.DOTALL)
        assert all((one["src"] or "").startswith("data:image/") for one in page.of("img"))
    english = (mixed / "report.html").read_text(encoding="utf-8")
    assert "3 of 50 images flagged (6.0%): removed; 1 fewer than planned are left" in english
    assert "9 of 50 images flagged (18.0%): used all the same, because fewer than two images of a class" in english
    assert english.count('class="figure"') and english.count("Distance to images set aside") == 2 * 4
    assert "合成データに効果があります：both" in (mixed / "report.ja.html").read_text(encoding="utf-8")


def test_ratios_stand_side_by_side_and_other_ways_apart(mixed: Path) -> None:
    page = (mixed / "report.html").read_text(encoding="utf-8")
    table = page[page.index('id="ratios"') : page.index('id="gaps"')]
    titles = re.findall(r'class="num">([\d.]+) per real image<', table)
    assert titles == ["0.5", "1", "3"]
    assert table.count("<tr>") == 1 + len(BUDGETS)


def test_what_filtering_changes_stands_before_and_after_or_in_one_line(mixed: Path, tmp_path: Path) -> None:
    sets = report(mixed)["synthetic"]["filtering"]
    assert len(sets) == 2 * 12  # two sets of each generator
    changed = [one for one in sets if one["changed"]]
    assert {(one["strategies"][0], one["part"]) for one in changed} == {("bad", "train")} and len(changed) == 4
    for one in changed:
        scores = {side: figures["scores"]["frechet"]["value"] for side, figures in one["fidelity"].items()}
        assert scores == {"made": 1.5, "kept": 1.25}
        assert one["audit_flagged"] == {"made": 4, "kept": 1}
    assert all(one["fidelity"] is None for one in sets if not one["changed"])
    page = (mixed / "report.html").read_text(encoding="utf-8")
    table = page[page.index('id="filtering"') : page.index('id="data"')]
    assert table.count(">All made<") == table.count(">Kept<") == 4
    assert "3 (6.0%)" in table and "a 30, b 19" in table and "2 replaced; figures of 47 a side" in table
    assert "copies, 60, repeat 2; for training: 9 of 50 images flagged and used all the same" in table
    assert "In 16 further sets of images none was flagged" in table
    run = Path(shutil.copytree(mixed, tmp_path / "run"))
    for path in (run / "artifacts" / "audit").glob("*/record.json"):
        record = json.loads(path.read_text())
        record["filtering"] = [one for one in record["filtering"] if not one["made"]["flagged"]]
        path.write_text(json.dumps(record))
    clean = write_report(run, lang="en").read_text(encoding="utf-8")
    clean = clean[clean.index('id="filtering"') : clean.index('id="data"')]
    assert clean.count("<p>") == 1 and "<table>" not in clean and "in any of the 16 sets" in clean


def test_an_audit_of_older_code_is_neither_listed_twice_nor_read_for_what_it_lacks(mixed: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(mixed, tmp_path / "run"))
    folders = sorted((run / "artifacts" / "audit").iterdir())
    shutil.copytree(folders[0], folders[0].with_name("0" * 20))  # the same audit under its former key
    write_report(run, lang="en")
    assert len(report(run)["synthetic"]["audits"]) == 12
    for path in (run / "artifacts" / "audit").glob("*/record.json"):
        record = json.loads(path.read_text())
        del record["filtering"]
        path.write_text(json.dumps(record))
    page = write_report(run, lang="en").read_text(encoding="utf-8")
    assert report(run)["synthetic"]["filtering"] == [] and 'id="filtering"' not in page


def test_what_failed_and_what_was_not_tested_is_listed(mixed: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(mixed, tmp_path / "run"))
    plan = json.loads((run / "plan.json").read_text())
    lost = next(one for one in plan["steps"] if one["kind"] == "synthesize")
    needing = next(one for one in plan["steps"] if f"synthesize/{lost['key']}" in one["needs"])
    for one, reason in ((lost, "no luck today"), (needing, "synthesize failed: no luck today")):
        folder = run / "artifacts" / one["kind"] / one["key"]
        (folder / "record.json").unlink()
        (folder / "failure.json").write_text(json.dumps({"reason": reason}))
    shutil.rmtree(run / "artifacts" / "audit")
    paths = sorted((run / "trials").glob("*/record.json"))
    records = {path: json.loads(path.read_text()) for path in paths}
    first = next(path for path, one in records.items() if (one["strategy"], one["budget"]) == ("probe", "20"))
    for path, one in records.items():
        if path == first:
            one["synthetic_missing"] = "images of toy failed"
        if path == first or one["strategy"] == "half":
            del one["synthetic_test"]
        path.write_text(json.dumps(one))
    write_report(run, lang="en")
    rows = [(one["what"], one["why"]) for one in report(run)["not_measured"]]
    assert ("synthesize of half", "no luck today") in rows
    assert not any(what.startswith("synthetic of") for what, _ in rows)
    repeat = records[first]["repeat"] + 1
    assert (f"probe, 20, repeat {repeat}, tested on synthetic images", "images of toy failed") in rows
    why = "no generator was trained for this budget and these image settings"
    assert [one for one in rows if one[1] == why] == [
        (f"half, {budget}, tested on synthetic images", why) for budget in BUDGETS
    ]
    assert report(run)["synthetic"]["audits"] == [] and 'id="audits"' not in (run / "report.html").read_text()


def test_a_collapsed_generator_is_said_to_be_so(mixed: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(mixed, tmp_path / "run"))
    path = next((run / "artifacts" / "audit").glob("*/record.json"))
    record = json.loads(path.read_text()) | {"collapsed": "Stopped at step 300: no diversity."}
    path.write_text(json.dumps(record))
    page = write_report(run, lang="en").read_text(encoding="utf-8")
    where = f"{record['budget']}, repeat {record['repeat'] + 1}"
    assert re.search(rf"generator of \S+ \({where}\) collapsed\. Stopped at step 300: no diversity\.", page)
    assert [one["what"] for one in report(run)["not_measured"] if "collapsed" in one["why"]] == []
    assert [one["collapsed"] for one in report(run)["synthetic"]["audits"] if one["collapsed"]] == [record["collapsed"]]


def test_a_study_without_a_generator_has_no_such_section(tmp_path: Path) -> None:
    fake = FakeRun(strategies={"probe": 0.5, "other": 1.0}, budgets=("20",), repeats=1, patients=40, domains=())
    page = write_report(make(tmp_path / "run", fake), lang="en").read_text(encoding="utf-8")
    assert report(tmp_path / "run")["synthetic"] is None
    assert 'id="synthetic"' not in page and "#synthetic" not in page


def test_domains_several_classes_and_errors_as_the_metric_are_turned_the_same_way(tmp_path: Path) -> None:
    entries = {"both": {"synthesize": GAN}, "only": {"synthesize": GAN, "train_on": "synthetic"}}
    fake = FakeRun(
        strategies={"probe": 0.5, "both": 1.5, "only": 0.0},
        budgets=("60",),
        repeats=2,
        patients=40,
        images_per_patient=3,
        domains=("XR", "CS2"),
        classes=("a", "b", "c"),
        leave_one_out=True,
        goal={"metric": "brier", "margin": 0.001},
        entries=entries,
        final=False,
    )
    write_report(make(tmp_path / "run", fake), lang="ja")
    found = report(tmp_path / "run")["synthetic"]
    values = {one["strategy"]: one["real"]["brier"]["estimate"] for one in found["matrix"]}
    assert found["adds"][0]["estimate"] == pytest.approx(values["probe"] - values["both"], abs=3e-6)
    assert found["gaps"][0]["estimate"] == pytest.approx(values["only"] - values["probe"], abs=3e-6)
    assert found["adds"][0]["verdict"] == "helps" and found["gaps"][0]["low"] > 0
    synthetic = [one["synthetic"]["brier"]["n_patients"] for one in found["matrix"]]
    assert synthetic == [2 * 120] * 3  # two repeats of one image per real one, over both domains left out


# --- rules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ((0.02, 0.001, 0.04), "helps"),
        ((0.009, 0.001, 0.04), "not enough evidence"),
        ((0.005, 0.001, 0.009), "adds nothing"),
        ((0.0, -0.05, 0.009), "adds nothing"),
        ((0.0, -0.05, 0.01), "not enough evidence"),
        ((-0.02, -0.04, -0.001), "hurts"),
        ((-0.005, -0.008, -0.001), "adds nothing"),
        ((-0.02, -0.06, 0.02), "not enough evidence"),
    ],
)
def test_an_addition_is_judged_by_its_bounds_and_the_margin(bounds: tuple[float, ...], expected: str) -> None:
    assert judge_addition(Bounds(*bounds), 0.01) == expected


def test_without_an_interval_there_is_not_enough_evidence() -> None:
    assert judge_addition(None, 0.01) == "not enough evidence"


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0.001, 0.2))
def test_helping_and_hurting_are_mirror_images(estimate: float, below: float, above: float, margin: float) -> None:
    there = judge_addition(Bounds(estimate, estimate - below, estimate + above), margin)
    back = judge_addition(Bounds(-estimate, -estimate - above, -estimate + below), margin)
    assert (there == "helps") == (back == "hurts")


def test_a_counterpart_is_equal_in_all_but_the_synthetic_images() -> None:
    probe = {"backbone": "resnet18", "adapt": {"method": "linear-probe"}, "image": {"size": 64}}
    strategies = {
        "other": probe | {"backbone": "uni"},
        "split real": probe | {"synthesize": GAN, "train_on": "real", "split_budget": True},
        "probe": probe | {"budgets": ["20"]},
        "both": probe | {"synthesize": GAN, "ratio": 5, "repeats": 2},
        "halves": probe | {"synthesize": GAN, "split_budget": True},
        "lonely": probe | {"image": {"size": 32}, "synthesize": GAN},
    }
    assert counterpart(strategies, "both") == counterpart(strategies, "halves") == "probe"
    assert counterpart(strategies, "lonely") is None
    del strategies["probe"]
    assert counterpart(strategies, "halves") == "split real"  # half the labels on either side
    assert counterpart(strategies, "both") is None


def test_a_recipe_is_read_as_the_study_file_means_it() -> None:
    assert recipe_of({}) == recipe_of({"synthesize": GAN, "train_on": "real"}) == Recipe(train_on="real")
    given = {"synthesize": GAN, "train_on": "real+synthetic", "ratio": 2, "classes": "rare-only", "dp": {"epsilon": 8}}
    expected = Recipe(train_on="real+synthetic", generator="toy", ratio=2.0, rare_only=True, private=True)
    assert recipe_of(given) == expected


@pytest.mark.parametrize(
    ("pools", "audited", "expected"),
    [
        ([], ["issue"], None),
        (["passed", "passed"], ["passed"], "passed"),
        (["passed", "warning"], [], "warning"),
        (["passed"], ["warning"], "warning"),
        (["passed"], ["issue"], "issue"),
        (["passed"], ["not applicable"], "passed"),
        (["not applicable", "issue"], [], "issue"),
        (["not applicable", "passed"], ["warning"], "not applicable"),
    ],
)
def test_what_could_not_be_checked_is_not_in_order(pools: list[str], audited: list[str], expected: str | None) -> None:
    assert judge_memorization(pools, audited) == expected


def test_the_worst_outcome_is_the_one_to_act_on() -> None:
    assert worst(["passed", "warning", "issue", "skipped"]) == "issue"
    assert worst(["passed", "not applicable"]) == "not applicable"


# --- pictures ------------------------------------------------------------------------------------------------------


def test_large_pictures_are_embedded_smaller_and_foreign_files_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "grid.png")
    Image.fromarray(noise[:20, :20]).save(folder / "small.png")
    Image.fromarray(noise[:20, :20]).save(tmp_path / "outside.png")
    (folder / "text.png").write_text("no picture")
    small, large = data_uri(folder, "small.png"), data_uri(folder, "grid.png")
    assert small is not None and large is not None
    assert base64.b64decode(small.removeprefix("data:image/png;base64,")) == (folder / "small.png").read_bytes()
    assert (folder / "grid.png").stat().st_size > PICTURE_BYTES
    content = base64.b64decode(large.removeprefix("data:image/jpeg;base64,"))
    assert content.startswith(b"\xff\xd8") and len(content) <= PICTURE_BYTES
    assert data_uri(folder, "../outside.png") is None
    assert data_uri(folder, "text.png") is None and data_uri(folder, "none.png") is None


def test_a_training_curve_is_drawn_through_its_points_and_skips_what_is_no_number() -> None:
    texts = {"title": "a <b>", "description": "d", "x": "step"}
    figure = training_curve([[(100, 1.0), (200, 3.0)], [(100, 2.0), (200, float("nan"))]], texts=texts)
    assert figure is not None
    root = ET.fromstring(str(figure))
    lines = [one.get("points", "") for one in root.iter() if one.tag.endswith("polyline")]
    points = [[tuple(map(float, pair.split(","))) for pair in one.split()] for one in lines]
    assert len(points[0]) == 2 and len(points[1]) == 1
    assert points[0][0][1] > points[1][0][1] > points[0][1][1]  # higher values lie further up
    assert points[0][1][0] == 240.0 and points[0][0][0] == points[1][0][0] == pytest.approx((46 + 240) / 2)
    assert training_curve([[(1, 1.0)]], texts=texts) is None

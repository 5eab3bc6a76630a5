"""Whole reports from fake run folders: figures against scikit-learn, files against their contract, pages against harm."""

from __future__ import annotations

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from tests.report.fake_run import COSTS, FakeRun, make
from wazuka.core.errors import ArtifactError, ConfigError
from wazuka.report.build import judge, write_joint_report, write_report
from wazuka.report.words import minus

SMALL: dict[str, Any] = {
    "strategies": {"base": 0.0, "better": 1.2},
    "budgets": ("20", "60"),
    "repeats": 2,
    "patients": 60,
    "images_per_patient": 3,
    "domains": ("XR", "CS2"),
    "test_share": 0.4,
}
FILES = ("report.html", "report.ja.html", "report.json", "summary.md")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated run with everything in it."""
    gates = {"min_sensitivity": 0.3, "max_domain_gap": 0.9, "memorization": "pass", "max_memory_gb": 4.0}
    fake = FakeRun(**SMALL, simulated=True, unanimous=True, failures=1, costs=COSTS, gates=gates)
    run = make(tmp_path_factory.mktemp("runs") / "simulated", fake)
    write_report(run)
    return run


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real-data run of three classes whose names try to be markup; no domain."""
    fake = FakeRun(
        **SMALL | {"strategies": {"base": 0.0, "<script>alert(2)</script>": 0.5}, "domains": ()},
        name='"><script>alert(0)</script>',
        classes=("a<script>alert(1)</script>", "b | c", "d"),
        final=False,
    )
    run = make(tmp_path_factory.mktemp("runs") / "hostile", fake)
    write_report(run)
    return run


def report(run: Path) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in report.json")

    return json.loads((run / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)


def copy(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / run.name))


class Page(HTMLParser):
    """Collects what a page loads, links and labels."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.content = path.read_text(encoding="utf-8")
        self.feed(self.content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


# --- figures -------------------------------------------------------------------------------------------------------


def test_estimates_and_differences_are_means_over_repeats_of_scikit_learn_scores(simulated: Path) -> None:
    scores: dict[tuple[str, str, int], float] = {}
    for path in (simulated / "trials").glob("*/record.json"):
        record = json.loads(path.read_text())
        table = pd.read_parquet(path.parent / "predictions.parquet")
        key = (record["strategy"], record["budget"], record["repeat"])
        scores[key] = roc_auc_score(table["label"] == "atypical", table["p_atypical"])
    for row in report(simulated)["strategies"]:
        own = {key[2]: one for key, one in scores.items() if key[:2] == (row["name"], row["budget"])}
        assert row["estimate"] == pytest.approx(np.mean(list(own.values())), abs=2e-6)
        assert row["low"] < row["estimate"] < row["high"]
        assert row["repeats"] == len(own)
        if row["name"] != "base":
            paired = [one - scores["base", row["budget"], repeat] for repeat, one in own.items()]
            assert row["difference"]["estimate"] == pytest.approx(np.mean(paired), abs=2e-6)
            assert 0 <= row["difference"]["p_holm"] <= 1


def test_the_confusion_matrix_is_the_mean_count_per_repeat(simulated: Path) -> None:
    judgement = judge(simulated)
    for row in judgement.rows:
        tables = [
            pd.read_parquet(one.folder / "predictions.parquet")
            for one in judgement.run.trials
            if (one.strategy, one.budget) == (row.strategy, row.budget)
        ]
        both = pd.concat(tables)
        counts = pd.crosstab(both["label"], both["predicted"]).to_numpy() / len(tables)
        assert np.allclose(np.array(row.cell.confusion), counts)


def test_a_clear_gain_is_adopted_where_it_is_shown(simulated: Path) -> None:
    judgement = judge(simulated)
    assert judgement.adopted is not None
    assert judgement.final_strategy == "better"
    assert judgement.headline == "Adopt better"
    rows = {(one["name"], one["budget"]): one for one in report(simulated)["strategies"]}
    assert rows["better", "60"]["verdict"] == "adopt"
    assert rows["better", "60"]["reasons"][0].startswith("better than the baseline with the same labels")
    assert [one["outcome"] for one in rows["better", "60"]["gates"]] == [
        "met",
        "met",
        "not applicable: this strategy makes no images",
        "met",
    ]
    assert rows["base", "60"]["difference"] is None and rows["base", "60"]["reasons"] == ["the baseline"]


def test_where_lower_is_better_differences_are_turned(simulated: Path, tmp_path: Path) -> None:
    run = copy(simulated, tmp_path)
    text = (
        (run / "study.yaml")
        .read_text()
        .replace("metric: auroc", "metric: brier")
        .replace("target: 0.85", "target: 0.1")
    )
    (run / "study.yaml").write_text(text)
    judgement = judge(run)
    row = judgement.row("better", "60")
    base = judgement.row("base", "60")
    assert row is not None and base is not None and row.cell.score is not None and base.cell.score is not None
    assert row.cell.score.estimate < base.cell.score.estimate
    assert row.cell.difference is not None and row.cell.difference.low > 0
    assert row.decision.verdict == "adopt"


def test_subgroups_are_judged_where_the_run_holds_attributes(simulated: Path, tmp_path: Path) -> None:
    run = copy(simulated, tmp_path)
    text = (run / "study.yaml").read_text().replace("max_domain_gap: 0.9", "max_subgroup_gap: 0.9")
    (run / "study.yaml").write_text(text)
    assert [one.state for one in judge(run).rows[-1].gates if one.name == "max_subgroup_gap"] == ["not measured"]
    ids = sorted({name for path in run.glob("trials/*/predictions.parquet") for name in pd.read_parquet(path)["id"]})
    sex = ["f" if int(name[-5:]) // 3 % 2 else "m" for name in ids]
    pd.DataFrame({"id": ids, "sex": sex}).to_parquet(run / "attributes.parquet")
    row = judge(run).rows[-1]
    assert row.cell.subgroup in ("sex: f", "sex: m")
    assert [one.state for one in row.gates if one.name == "max_subgroup_gap"] == ["met"]


def test_a_gate_measured_on_the_refitted_model_waits_for_it_and_then_decides(simulated: Path, tmp_path: Path) -> None:
    run = copy(simulated, tmp_path)
    (run / "study.yaml").write_text((run / "study.yaml").read_text().replace("memorization: pass", "max_ms: 20.0"))
    shutil.rmtree(run / "final")
    before = judge(run)
    assert before.adopted is None and before.final_strategy == "better"
    assert before.final_reason == "the strategy that only waits for At most 20 ms per image, measured on this model"
    record = {"strategy": "better", "latency_ms": {"median": 10.0, "p95": 15.0}}
    for milliseconds, verdict in ((15.0, "adopt"), (25.0, "do not adopt")):
        record["latency_ms"] = {"median": 10.0, "p95": milliseconds}
        (run / "final").mkdir(exist_ok=True)
        (run / "final" / "record.json").write_text(json.dumps(record))
        row = judge(run).row("better", "60")
        assert row is not None and row.decision.verdict == verdict


# --- contracts ------------------------------------------------------------------------------------------------------


def test_report_json_has_the_keys_of_the_contract_and_no_nan(simulated: Path, hostile: Path) -> None:
    for run in (simulated, hostile):
        found = report(run)
        assert set(found) >= {"study", "data", "strategies", "checks", "not_measured", "next_stage"}
        for row in found["strategies"]:
            assert set(row) >= {
                "name", "budget", "metric", "estimate", "low", "high", "n_patients", "repeats", "difference",
                "labels_needed", "labels_saved", "cost", "gates", "verdict", "reasons",
            }  # fmt: skip
            assert row["verdict"] in ("adopt", "do not adopt", "not enough evidence")
            assert isinstance(row["budget"], str) and row["reasons"]
            if row["difference"] is not None:
                assert set(row["difference"]) == {"estimate", "low", "high", "p_holm"}
        assert all(set(one) == {"what", "why"} for one in found["not_measured"])
        assert set(found["next_stage"]) >= {"strategies", "repeats", "labels", "drop", "reasons"}


def test_the_same_folder_gives_the_same_bytes_wherever_it_lies(simulated: Path, tmp_path: Path) -> None:
    run = copy(simulated, tmp_path)
    for name in FILES:
        (run / name).unlink()
    write_report(run)
    for name in FILES:
        assert (run / name).read_bytes() == (simulated / name).read_bytes(), name


def test_a_failed_and_an_unfinished_trial_are_listed_with_their_reasons(simulated: Path, tmp_path: Path) -> None:
    run = copy(simulated, tmp_path)
    finished = sorted(one.parent for one in run.glob("trials/*/record.json") if '"base"' in one.read_text())[0]
    (finished / "record.json").unlink()
    write_report(run)
    found = {one["what"]: one["why"] for one in report(run)["not_measured"]}
    assert found["better, 20, repeat 1"] == "the loss became NaN at step 12"
    assert "the trial is not finished; the study's command goes on with it" in found.values()
    assert found["strategy uni-lora"] == "its weights are not on this machine (gated download)"
    assert report(run)["study"]["trials"] == {"finished": 6, "failed": 1, "unfinished": 1}


def test_undefined_scores_are_counted(tmp_path: Path) -> None:
    run = make(tmp_path / "run", FakeRun(**SMALL, undefined=True))
    page = write_report(run)
    rows = pd.read_parquet(run / "results.parquet")
    count = int((rows["value"].isna() & (rows["metric"] == "auroc")).sum())
    assert count > 0
    why = {one["what"]: one["why"] for one in report(run)["not_measured"]}
    assert why[f"scores of AUROC: {count} rows"] == "only one class is present among these test images"
    assert f"scores of AUROC: {count} rows" in page.read_text(encoding="utf-8")


def test_one_language_writes_that_page_only(simulated: Path, tmp_path: Path) -> None:
    run = copy(simulated, tmp_path)
    for name in FILES:
        (run / name).unlink()
    assert write_report(run, lang="ja") == run / "report.ja.html"
    assert not (run / "report.html").exists()
    assert "模擬データ" in (run / "summary.md").read_text(encoding="utf-8")
    assert report(run)["notice"].startswith("SIMULATED DATA")
    with pytest.raises(ConfigError, match="Unknown language `de`"):
        write_report(run, lang="de")


def test_a_single_strategy_has_nothing_to_compare_and_one_domain_is_this_scanner_only(tmp_path: Path) -> None:
    fake = FakeRun(**SMALL | {"strategies": {"linear-probe": 0.0}, "domains": ("XR",)}, final=False)
    write_report(make(tmp_path / "run", fake))
    row = report(tmp_path / "run")["strategies"][0]
    assert row["verdict"] == "not enough evidence"
    assert row["reasons"] == ["nothing to compare: the study has a single strategy", "the baseline"]
    summary = (tmp_path / "run" / "summary.md").read_text(encoding="utf-8")
    assert "For this scanner only: XR" in summary
    assert "Its refitted model (final/) is not made yet" in summary


@pytest.mark.parametrize("kind", ["leave_one_out", "each_to_each"])
def test_studies_over_domains_are_reported_per_domain(tmp_path: Path, kind: str) -> None:
    run = make(tmp_path / "run", FakeRun(**SMALL | {"budgets": ("60",)}, **{kind: True}))
    page = Page(write_report(run))
    rows = report(run)["strategies"]
    assert set(rows[0]["domains"]) == {"XR", "CS2"}
    assert rows[1]["domains"]["XR"]["difference"]["estimate"] > 0
    assert ("Rows: the domain trained on" in page.content) == (kind == "each_to_each")


# --- pages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["report.html", "report.ja.html"])
def test_a_page_loads_nothing_and_forbids_loading(simulated: Path, name: str) -> None:
    page = Page(simulated / name)
    policy = [one for one in page.of("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0]["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    assert page.of("img") and all((one["src"] or "").startswith("data:image/png;base64,") for one in page.of("img"))
    assert all(re.fullmatch(r"#[a-z]+|report(\.ja)?\.html", one["href"] or "") for one in page.of("a"))
    assert "@import" not in page.content and "url(" not in page.content
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]


@pytest.mark.parametrize("name", ["report.html", "report.ja.html"])
def test_names_from_the_data_are_never_markup(hostile: Path, name: str) -> None:
    page = Page(hostile / name)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "a&lt;script&gt;alert(1)" in page.content and "&lt;script&gt;alert(2)" in page.content
    assert "<script" not in (hostile / "summary.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["report.html", "report.ja.html"])
def test_a_page_is_readable_by_machines_for_people(simulated: Path, name: str) -> None:
    page = Page(simulated / name)
    assert page.of("html")[0]["lang"] == ("ja" if ".ja" in name else "en")
    assert all(one.get("alt") for one in page.of("img"))
    assert all(one.get("scope") in ("row", "col") for one in page.of("th"))
    figures = [one for one in page.of("svg") if one.get("class") == "figure"]
    assert len(figures) == 4 and all(one["role"] == "img" and one["aria-label"] for one in figures)
    ids = [one["id"] for _, one in page.tags if one.get("id")]
    assert len(ids) == len(set(ids))
    assert {one["href"] for one in page.of("a") if (one["href"] or "").startswith("#")} <= {f"#{one}" for one in ids}
    assert "None" not in re.sub(r"<style>.*?</style>|default-src 'none'", "", page.content, flags=re.DOTALL)
    assert not re.search(r">\s*nan\b", page.content)


def test_simulated_data_are_named_on_every_page_and_real_data_are_not(simulated: Path, hostile: Path) -> None:
    english, japanese = (Page(simulated / name).content for name in FILES[:2])
    assert english.count("SIMULATED DATA") >= 4 and japanese.count("模擬データ") >= 4
    assert "@top-center" in english  # on every printed sheet too
    assert "SIMULATED DATA" in (simulated / "summary.md").read_text(encoding="utf-8")
    assert report(simulated)["simulated"] is True
    for name in FILES:
        content = (hostile / name).read_text(encoding="utf-8")
        assert "SIMULATED" not in content and "模擬" not in content
    assert report(hostile)["simulated"] is False


def test_text_colors_have_enough_contrast_on_white_and_on_the_pale_ground() -> None:
    style = (Path(sys.modules["wazuka.report.build"].__file__ or "").parent / "templates" / "style.css").read_text()
    colors = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", style))

    def luminance(color: str) -> float:
        parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for name in ("ink", "soft", "blue", "green", "red", "amber"):
        for ground in ("#ffffff", colors["pale"]):
            light, dark = sorted((luminance(colors[name]), luminance(ground)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, ground)


def test_pictures_come_from_the_trials_own_folder_only(simulated: Path, tmp_path: Path) -> None:
    run = copy(simulated, tmp_path)
    (tmp_path / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\n secret")
    for path in run.glob("trials/*/record.json"):
        record = json.loads(path.read_text())
        record["worst"] = [
            {"id": "x", "label": "a", "predicted": "b", "probability": 0.9, "file": "../../../secret.png"},
            {"id": "y", "label": "a", "predicted": "b", "probability": 0.8, "file": "record.json"},
        ]
        path.write_text(json.dumps(record))
    page = Page(write_report(run))
    assert not page.of("img")
    assert "No pictures of errors were kept with these trials." in page.content


def test_the_page_names_costs_checks_leakage_license_and_how_to_reproduce(simulated: Path) -> None:
    content = (simulated / "report.html").read_text(encoding="utf-8")
    for text in (
        "WZ301", "label confounded with domain", "A naive split inflates the score by +0.048", "Apache-2.0",
        "mobilenetv1-025", "wazuka run simulated/study.yaml --dataset DATASET --out NEW_RUN", "torch 2.15.0",
        "15.8 ms", "Expected misses per year", "EUR", "unanimous", "disputed", "Energy was not measured",
        "the baseline: no strategy was adopted", "3 (truncated PNG: 3)", "basophil (1 patients)",
    ):  # fmt: skip
        assert text in content, text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-0.5 (-0.7 to +0.2)", "\u22120.5 (\u22120.7 to +0.2)"),
        ("差：-0.017（-0.212〜+0.047）", "差：\u22120.017（\u22120.212〜+0.047）"),
        ("-0.000 (-0.010 to 0.010)", "0.000 (\u22120.010 to 0.010)"),
        ("resnet-18, b-2, 2020-01", "resnet-18, b-2, 2020-01"),
    ],
)
def test_minus_signs_are_set_and_hyphens_and_names_are_left_alone(words: str, expected: str) -> None:
    assert minus(words) == expected


def test_local_folders_do_not_travel_with_the_report(simulated: Path, tmp_path: Path) -> None:
    run = copy(simulated, tmp_path)
    data = json.loads((run / "data.json").read_text())
    data["card"]["source"] = "/home/doctor/patients/clinic"
    (run / "data.json").write_text(json.dumps(data))
    write_report(run)
    for name in FILES:
        assert "/home/doctor" not in (run / name).read_text(encoding="utf-8")
    assert "<dd>clinic</dd>" in (run / "report.html").read_text(encoding="utf-8")


# --- several runs and bad input ------------------------------------------------------------------------------------


def test_runs_side_by_side_say_what_is_comparable(simulated: Path, hostile: Path, tmp_path: Path) -> None:
    again = copy(simulated, tmp_path)
    content = write_joint_report([again, simulated]).read_text(encoding="utf-8")
    assert "These runs have the same data and the same test patients" in content
    assert "simulated [1]" in content and "simulated [2]" in content and "SIMULATED DATA" in content
    card = json.loads((again / "data.json").read_text())
    card["card"]["fingerprint"] = "other"
    (again / "data.json").write_text(json.dumps(card))
    page = Page(write_joint_report([again, hostile], lang="ja", out=tmp_path))
    assert "異なるデータによる実行です" in page.content and "script" not in {tag for tag, _ in page.tags}
    assert not (tmp_path / "report.joint.html").exists()
    with pytest.raises(ConfigError, match="1 run is given; name two or more"):
        write_joint_report([simulated])


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"has no study\.yaml; give a run folder made by `wazuka poc`"):
        write_report(tmp_path)


def test_a_run_without_a_finished_trial_is_refused_with_the_first_reason(simulated: Path, tmp_path: Path) -> None:
    run = copy(simulated, tmp_path)
    for path in run.glob("trials/*/record.json"):
        path.unlink()
    with pytest.raises(ArtifactError, match="has no finished trial; the first failed: the loss became NaN at step 12"):
        judge(run)


def test_a_damaged_table_is_named(simulated: Path, tmp_path: Path) -> None:
    run = copy(simulated, tmp_path)
    (run / "results.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(ArtifactError, match=r"results\.parquet is not a readable Parquet table"):
        judge(run)


def test_a_study_whose_baseline_failed_everywhere_still_reports(simulated: Path, tmp_path: Path) -> None:
    run = copy(simulated, tmp_path)
    for path in run.glob("trials/*/record.json"):
        if '"base"' in path.read_text():
            path.unlink()
    write_report(run)
    assert {one["verdict"] for one in report(run)["strategies"]} == {"not enough evidence"}

"""Everything a user can get wrong: exit code 2, one line on stderr, what is wrong and what would be right."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from tests.study.conftest import PROBE, study_values
from wazuka.data.manifest import Dataset


def assert_refused(result: object, *parts: str) -> None:
    """Exit code 2 and one line that holds all parts."""
    text = result.err.strip()  # type: ignore[attr-defined]
    last = text.splitlines()[-1] if text else ""
    assert result.code == 2, text  # type: ignore[attr-defined]
    assert last.startswith("wazuka: ")
    assert "Traceback" not in text
    for part in parts:
        assert part in last, f"{part!r} not in {last!r}"


def picture(path: Path, seed: int = 0, side: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)).save(path)


@pytest.fixture
def study(clinic: Dataset, tmp_path: Path) -> Callable[..., Path]:
    """Write a study file with some keys changed."""

    def write(**changes: object) -> Path:
        path = tmp_path / "study.yaml"
        values = study_values(clinic, strategies={"probe": PROBE}, repeats=1, budgets=["100%"])
        path.write_text(yaml.safe_dump(values | changes))
        return path

    return write


@pytest.fixture(scope="session")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    from tests.study.conftest import clinic as made

    return made.__wrapped__(tmp_path_factory)


def test_a_missing_source_file_or_dataset(wazuka: Callable, tmp_path: Path) -> None:
    assert_refused(wazuka("import", tmp_path / "none", "--out", tmp_path / "d"), "none does not exist")
    assert_refused(wazuka("check", tmp_path / "none"), "none has no dataset.yaml")
    assert_refused(wazuka("poc", tmp_path / "none", "--out", tmp_path / "r"), "none does not exist")
    assert_refused(wazuka("run", tmp_path / "none.yaml", "--out", tmp_path / "r"), "none.yaml does not exist")
    assert_refused(wazuka("report", tmp_path / "none"), "none")
    assert_refused(wazuka("predict", tmp_path / "none", tmp_path, "--out", tmp_path / "p"), "holds no model")


def test_an_empty_folder(wazuka: Callable, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_refused(wazuka("import", tmp_path / "empty", "--out", tmp_path / "d"), "empty folder")
    assert not (tmp_path / "d").exists()


def test_a_missing_column_offers_the_nearest(wazuka: Callable, tmp_path: Path) -> None:
    for number in range(2):
        picture(tmp_path / "s" / f"{number}.png", number)
    (tmp_path / "s" / "t.csv").write_text("image,label,patient\n0.png,a,1\n1.png,b,2\n")
    result = wazuka(
        "import", tmp_path / "s", "--table", tmp_path / "s" / "t.csv", "--label", "lable", "--out", tmp_path / "d"
    )
    assert_refused(result, "lable", "`label`")
    assert not (tmp_path / "d").exists()


def test_an_unreadable_table(wazuka: Callable, tmp_path: Path) -> None:
    picture(tmp_path / "s" / "0.png")
    (tmp_path / "s" / "t.parquet").write_bytes(b"PAR1 no")
    result = wazuka("import", tmp_path / "s", "--table", tmp_path / "s" / "t.parquet", "--out", tmp_path / "d")
    assert_refused(result, "t.parquet")


def test_a_label_column_of_one_class(wazuka: Callable, tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / "s" / f"{number}.png", number)
    (tmp_path / "s" / "t.csv").write_text("image,label\n0.png,a\n1.png,a\n2.png,a\n")
    result = wazuka("import", tmp_path / "s", "--table", tmp_path / "s" / "t.csv", "--out", tmp_path / "d")
    assert_refused(result, "one class only (`a`")


def test_too_many_corrupt_images_stop_the_import(wazuka: Callable, tmp_path: Path) -> None:
    for number in range(10):
        picture(tmp_path / "s" / f"{number}.png", number)
    (tmp_path / "s" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert_refused(wazuka("import", tmp_path / "s", "--out", tmp_path / "d"), "1 of 10 images cannot be used", "3.png")
    assert not (tmp_path / "d").exists()
    assert wazuka("import", tmp_path / "s", "--out", tmp_path / "d", "--max-corrupt", "20").code == 0


def test_one_patient_only(wazuka: Callable, tmp_path: Path) -> None:
    rows = ["image,label,patient"]
    for number in range(8):
        picture(tmp_path / "s" / f"{number}.png", number)
        rows.append(f"{number}.png,{'ab'[number % 2]},only")
    (tmp_path / "s" / "t.csv").write_text("\n".join(rows))
    table = ("--table", tmp_path / "s" / "t.csv")
    assert wazuka("import", tmp_path / "s", *table, "--out", tmp_path / "d").code == 0
    result = wazuka("poc", tmp_path / "d", "--out", tmp_path / "r", "--strategies", "scratch")
    assert_refused(result, "patient")


def test_an_unknown_key_in_a_study_file(wazuka: Callable, tmp_path: Path, study: Callable[..., Path]) -> None:
    result = wazuka("run", study(budgetz=[1]), "--out", tmp_path / "r")
    assert_refused(result, "Unknown key `budgetz`", "Did you mean `budgets`?")
    assert not (tmp_path / "r").exists()


def test_unknown_names_offer_the_nearest(wazuka: Callable, tmp_path: Path, clinic: Dataset) -> None:
    out = ("--out", tmp_path / "r")
    assert_refused(wazuka("poc", clinic.folder, *out, "--preset", "quik"), "Unknown preset `quik`", "`quick`")
    assert_refused(wazuka("poc", clinic.folder, *out, "--strategies", "scrach"), "Did you mean `scratch`?")
    assert_refused(wazuka("poc", clinic.folder, *out, "--goal", "auc=1"), "Unknown metric `auc`")
    assert_refused(wazuka("poc", clinic.folder, *out, "--backbone", "resnet81", "--strategies", "finetune"), "resnet81")
    assert_refused(wazuka("methods", "show", "linear-prob"), "Did you mean `linear-probe`?")
    assert_refused(wazuka("recipes", "show", "spin"), "Did you mean `spine`?")
    assert_refused(wazuka("chek", "x"), "Unknown command `chek`. Did you mean `check`?")
    assert_refused(wazuka("check", "x", "--jsn"), "--jsn", "--json")
    assert_refused(wazuka("import", clinic.card.root, "--out", tmp_path / "d", "--kind", "foldr"), "`folder`")


def test_budgets_that_do_not_fit(wazuka: Callable, tmp_path: Path, study: Callable[..., Path]) -> None:
    assert_refused(wazuka("run", study(budgets=[3]), "--out", tmp_path / "r"), "Budget 3 is too small", "smallest")
    assert_refused(wazuka("run", study(budgets=[9999]), "--out", tmp_path / "r"), "Budget 9999", "largest")


def test_a_run_folder_of_another_study(wazuka: Callable, tmp_path: Path, study: Callable[..., Path]) -> None:
    assert wazuka("run", study(), "--out", tmp_path / "r", "--device", "cpu").code == 0
    result = wazuka("run", study(seed=9), "--out", tmp_path / "r", "--device", "cpu")
    assert_refused(result, "belongs to another study", "choose another --out")


def test_a_weights_file_that_does_not_fit(wazuka: Callable, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"conv1.weight": torch.zeros(8, 3, 7, 7)}, tmp_path / "w.safetensors")
    result = wazuka("backbones", "add", "resnet18", tmp_path / "w.safetensors")
    assert_refused(result, "conv1.weight", "8")


def test_weights_that_are_not_here_say_how_to_add_them(
    wazuka: Callable, tmp_path: Path, study: Callable[..., Path]
) -> None:
    strategies = {"p": {"backbone": "resnet18", "adapt": "linear-probe"}}
    result = wazuka("run", study(strategies=strategies), "--out", tmp_path / "r")
    assert_refused(result, "resnet18", "wazuka backbones add resnet18")


def test_no_scheduler_at_the_address(wazuka: Callable, tmp_path: Path, study: Callable[..., Path]) -> None:
    result = wazuka("run", study(), "--out", tmp_path / "r", "--scheduler", "nonsense://x", "--device", "cpu")
    assert_refused(result, "No Dask scheduler answers at nonsense://x")


def test_a_device_that_is_not_there(wazuka: Callable, tmp_path: Path, study: Callable[..., Path]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    assert_refused(wazuka("run", study(), "--out", tmp_path / "r", "--device", "cuda"), "torch sees no CUDA device")
    assert_refused(wazuka("run", study(), "--out", tmp_path / "r", "--device", "gpu"), "Unknown device `gpu`")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two folders of pictures and a table of them."""
    folder = tmp_path / "pictures"
    rows = ["image,label,patient"]
    for number in range(6):
        picture(folder / f"{number}.png", number)
        rows.append(f"{number}.png,{'ab'[number % 2]},{number}")
    (folder / "t.csv").write_text("\n".join(rows))
    return folder


def test_paths_that_the_system_refuses(wazuka: Callable, tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(wazuka("import", "x" * 300, "--out", tmp_path / "d"), "too long")
    assert_refused(wazuka("import", pictures, "--out", tmp_path / ("x" * 300)), "too long")
    assert_refused(wazuka("import", "/dev/null", "--out", tmp_path / "d"), "/dev/null")
    assert_refused(wazuka("import", pictures, "--out", tmp_path / "file" / "d"), "file is a file")
    assert_refused(wazuka("import", pictures, "--table", pictures, "--out", tmp_path / "d"), "is a folder")


def test_import_options_are_checked_although_this_source_does_not_need_them(
    wazuka: Callable, tmp_path: Path, pictures: Path
) -> None:
    end = ("--out", tmp_path / "d")
    assert_refused(wazuka("import", pictures, "--salt-file", tmp_path / "none", *end), "none cannot be read")
    assert_refused(wazuka("import", pictures, "--mask-classes", "", *end), "VALUE=NAME")
    assert_refused(wazuka("import", pictures, "--mask-classes", "²=a", *end), "VALUE=NAME")
    assert_refused(wazuka("import", pictures, "--mask-classes", "9999999999999999999=a", *end), "VALUE=NAME")
    assert not (tmp_path / "d").exists()


def test_a_table_with_an_endless_header(wazuka: Callable, tmp_path: Path, pictures: Path) -> None:
    (pictures / "t.csv").write_text((pictures / "t.csv").read_text().replace("patient", "p" * 200_000, 1))
    result = wazuka("import", pictures, "--table", pictures / "t.csv", "--out", tmp_path / "d")
    assert_refused(result, "t.csv cannot be read", "field limit")


def test_a_file_name_that_is_not_utf8(wazuka: Callable, tmp_path: Path, pictures: Path) -> None:
    (pictures / os.fsdecode(b"bad\xff.png")).write_bytes((pictures / "0.png").read_bytes())
    (pictures / "t.csv").unlink()
    assert_refused(wazuka("import", pictures, "--out", tmp_path / "d"), "is not UTF-8")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"), ("? [a, b]\n: 1", "list"), ("a: 2020-01-45", "day")],
)
def test_yaml_that_no_settings_file_has(wazuka: Callable, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    assert_refused(wazuka("run", tmp_path / "s.yaml", "--out", tmp_path / "r"), "s.yaml", said)


def test_a_dataset_folder_changed_by_hand(wazuka: Callable, tmp_path: Path, pictures: Path) -> None:
    made, given = tmp_path / "d", tmp_path / "d" / "dataset.yaml"
    assert wazuka("import", pictures, "--table", pictures / "t.csv", "--out", made).code == 0
    text = given.read_text()
    for old, new, said in (
        ("- b\n", "- c\n", "lacks the label `b`"),
        ("positive: b", "positive: z", "`positive` is `z`"),
        (f"root: {pictures}", "root: elsewhere", "give an absolute folder"),
    ):
        assert old in text
        given.write_text(text.replace(old, new))
        assert_refused(wazuka("check", made, "--no-leakage"), "dataset.yaml", said)
    given.write_text(text)
    pd.read_parquet(made / "inspection.parquet").iloc[:2].to_parquet(made / "inspection.parquet")
    assert_refused(wazuka("check", made, "--no-leakage"), "inspection.parquet lacks rows")
    pd.read_parquet(made / "manifest.parquet").assign(frame="x").to_parquet(made / "manifest.parquet")
    assert_refused(wazuka("check", made, "--no-leakage"), "`frame`")


def test_a_refused_run_leaves_nothing_behind(wazuka: Callable, tmp_path: Path, study: Callable[..., Path]) -> None:
    assert_refused(wazuka("run", study(budgets=[10**6]), "--out", tmp_path / "r", "--device", "cpu"), "larger than")
    assert not (tmp_path / "r").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    assert_refused(wazuka("run", study(), "--out", mine, "--device", "cpu"), "no run folder")
    assert [one.name for one in mine.iterdir()] == ["letter.txt"]


def test_too_many_threads(wazuka: Callable, tmp_path: Path, study: Callable[..., Path]) -> None:
    assert_refused(wazuka("run", study(threads_per_trial=99_999), "--out", tmp_path / "r"), "from 1 to 256")


def test_file_names_neither_end_a_line_nor_steer_the_terminal(
    wazuka: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        picture(tmp_path / "s" / ("a", "b[")[number % 2] / f"]\n\x1b[31m{number}.png", number)
    (tmp_path / "s" / "b[" / "]\n\x1b[31mbad.png").write_bytes(b"")
    result = wazuka("import", tmp_path / "s", "--out", tmp_path / "d", "--max-corrupt", "50")
    assert result.code == 0
    assert "\x1b" not in result.out
    result = wazuka("check", tmp_path / "d", "--no-leakage")
    assert "\x1b" not in result.out
    assert all(line.startswith("WZ") for line in result.out.splitlines())
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert wazuka("check", tmp_path / "d", "--no-leakage").code in (0, 3)


def test_repeats_without_end(wazuka: Callable, tmp_path: Path, study: Callable[..., Path]) -> None:
    assert_refused(wazuka("run", study(repeats=10**8), "--out", tmp_path / "r"), "repeats is 100000000", "or fewer")


def test_a_value_is_refused_with_one_full_stop(wazuka: Callable, tmp_path: Path, study: Callable[..., Path]) -> None:
    result = wazuka("run", study(image={"size": 1}), "--out", tmp_path / "r")
    assert_refused(result, "`size` is 1")
    assert not result.err.strip().endswith("..")


def test_numbers_that_no_setting_can_have(wazuka: Callable, tmp_path: Path, study: Callable[..., Path]) -> None:
    out = ("--out", tmp_path / "r")
    assert_refused(wazuka("run", study(gates={"min_sensitivity": 9}), *out), "`min_sensitivity` is 9", "from 0 to 1")
    assert_refused(wazuka("run", study(gates={"max_ms": 0}), *out), "`max_ms` is 0", "above 0")
    assert_refused(wazuka("run", study(goal={"metric": "auroc", "margin": float("inf")}), *out), "margin", "finite")

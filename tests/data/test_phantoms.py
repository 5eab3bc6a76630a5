"""The simulated clinic: same bytes, real faults, classes that color does not tell apart and texture does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from wazuka.core.errors import DataError
from wazuka.data.phantoms import Clinic, make_clinic


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    return make_clinic(tmp_path_factory.mktemp("clinic") / "clinic", seed=0, patients=42, patches=10)


@pytest.fixture(scope="module")
def cases(clinic: Clinic) -> tuple[pd.DataFrame, np.ndarray]:
    """Table and pixels of what can be read, without the copies."""
    table = pd.read_csv(clinic.table)
    copies = [copy for _, copy in (*clinic.exact_duplicates, *clinic.near_duplicates)]
    table = table[~table["image"].isin([*clinic.corrupt, *copies])].reset_index(drop=True)
    pixels = np.stack([np.asarray(Image.open(clinic.folder / name)) for name in table["image"]])
    return table, pixels.astype(np.float32) / 255


def test_the_same_seed_gives_the_same_bytes_and_another_differs(tmp_path: Path) -> None:
    made = [
        make_clinic(tmp_path / str(n), seed=seed, patients=6, patches=6, corrupt=1, duplicates=1)
        for n, seed in enumerate((3, 3, 4))
    ]
    contents = [
        {path.relative_to(one.folder): path.read_bytes() for path in one.folder.rglob("*") if path.is_file()}
        for one in made
    ]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]
    assert len(contents[0]) == made[0].images + 2
    assert not list(tmp_path.glob("*.part"))


def test_the_folder_says_that_it_is_simulated(clinic: Clinic) -> None:
    assert (clinic.folder / "README.txt").read_text().startswith("SIMULATED DATA")


def test_the_table_lists_every_file_and_each_patient_has_one_scanner(clinic: Clinic) -> None:
    table = pd.read_csv(clinic.table)
    assert list(table.columns) == ["image", "label", "patient", "scanner"]
    files = {path.relative_to(clinic.folder).as_posix() for path in (clinic.folder / "images").iterdir()}
    assert set(table["image"]) == files and len(table) == clinic.images == len(files)
    copies = [copy for _, copy in (*clinic.exact_duplicates, *clinic.near_duplicates)]
    own = table[~table["image"].isin(copies)]
    assert len(own[["patient", "scanner"]].drop_duplicates()) == 42 == len(set(table["patient"]))
    assert len(set(table["scanner"])) == 3
    assert 0.2 < (table["label"] == "irregular").mean() < 0.5


def test_corrupt_files_cannot_be_read_all_others_can_and_they_stay_below_five_percent(clinic: Clinic) -> None:
    broken = []
    for name in pd.read_csv(clinic.table)["image"]:
        with Image.open(clinic.folder / name) as image:
            try:
                image.load()
            except OSError:
                broken.append(name)
    assert tuple(sorted(broken)) == clinic.corrupt
    assert 0 < len(broken) < 0.05 * clinic.images


def test_duplicates_are_what_the_clinic_says_within_and_across_patients(clinic: Clinic) -> None:
    table = pd.read_csv(clinic.table).set_index("image")
    for pairs, exact in ((clinic.exact_duplicates, True), (clinic.near_duplicates, False)):
        assert len(pairs) == 4
        same_patient = 0
        for one, other in pairs:
            a, b = (np.asarray(Image.open(clinic.folder / name)).astype(int) for name in (one, other))
            assert (np.abs(a - b).max() == 0) == exact
            assert np.abs(a - b).max() <= 5
            assert table.loc[one, "label"] == table.loc[other, "label"]
            assert table.loc[one, "scanner"] == table.loc[other, "scanner"]
            same_patient += table.loc[one, "patient"] == table.loc[other, "patient"]
        assert same_patient == 2


def test_mean_color_does_not_tell_the_classes_apart_but_texture_does(cases: tuple[pd.DataFrame, np.ndarray]) -> None:
    table, pixels = cases
    color = np.concatenate([pixels.mean((1, 2)), pixels.std((1, 2))], axis=1)
    by_color, by_texture = [], []
    for scanner in sorted(table["scanner"].unique()):
        rows = (table["scanner"] == scanner).to_numpy()
        by_color.append(grouped_auroc(color[rows], table[rows]))
        by_texture.append(grouped_auroc(texture(pixels[rows]), table[rows]))
    assert np.mean(by_color) < 0.58, by_color
    assert min(by_texture) > 0.85, by_texture


def test_color_says_nothing_of_the_label_within_a_patient(cases: tuple[pd.DataFrame, np.ndarray]) -> None:
    table, pixels = cases
    color = pd.DataFrame(np.concatenate([pixels.mean((1, 2)), pixels.std((1, 2))], axis=1))
    label = (table["label"] == "irregular").astype(float)
    within = color - color.groupby(table["patient"]).transform("mean")
    signs = label - label.groupby(table["patient"]).transform("mean")
    correlations = within.corrwith(signs)
    assert correlations.abs().max() < 3.5 / np.sqrt(len(table)), correlations


def test_a_split_that_tears_patients_apart_flatters_the_score(cases: tuple[pd.DataFrame, np.ndarray]) -> None:
    table, pixels = cases
    color = np.concatenate([pixels.mean((1, 2)), pixels.std((1, 2))], axis=1)
    gains = []
    for scanner in sorted(table["scanner"].unique()):
        rows = (table["scanner"] == scanner).to_numpy()
        torn = table[rows].assign(patient=np.random.default_rng(0).permutation(rows.sum()) % 5)
        gains.append(grouped_auroc(color[rows], torn) - grouped_auroc(color[rows], table[rows]))
    assert np.mean(gains) > 0.08, gains


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"patients": 3}, "3 patients with 10 patches of 96 pixels is too small"),
        ({"patients": 6, "patches": 4, "corrupt": 6}, "6 corrupt and 8 copied files are too many for 24 patches"),
    ],
)
def test_impossible_clinics_are_refused(tmp_path: Path, settings: dict[str, int], text: str) -> None:
    with pytest.raises(DataError, match=text):
        make_clinic(tmp_path / "clinic", **settings)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_content_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="is not empty; give a folder that does not exist"):
        make_clinic(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def grouped_auroc(features: np.ndarray, table: pd.DataFrame) -> float:
    """AUROC of a logistic regression under cross-validation that keeps patients whole."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    label = (table["label"] == "irregular").to_numpy()
    probability = cross_val_predict(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        features,
        label,
        groups=table["patient"],
        cv=GroupKFold(5),
        method="predict_proba",
    )[:, 1]
    return float(roc_auc_score(label, probability))


def texture(pixels: np.ndarray) -> np.ndarray:
    """Gradient and Laplacian statistics of the gray image at three scales: (n, 9)."""
    gray = pixels.mean(axis=3)
    found = []
    for sigma in (0.0, 1.0, 2.0):
        smooth = ndimage.gaussian_filter(gray, (0, sigma, sigma))
        gradient = np.hypot(*np.gradient(smooth, axis=(1, 2)))
        found += [gradient.mean((1, 2)), gradient.std((1, 2)), np.abs(np.diff(smooth, 2, axis=1)).mean((1, 2))]
    return np.stack(found, axis=1)

"""Properties of splits: partitions by patient, exact label orders, independence of row order."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wazuka.core.errors import ConfigError, DataError, NotEnoughData
from wazuka.data.drawing import draw_patients
from wazuka.data.label_order import class_sequence, farthest_point_order
from wazuka.data.splits import COLUMNS, Test, make_splits, parse_share, small_classes, split_hash

PATIENTS = Test(kind="patients")
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def make_table(
    *, patients: int = 20, images: int = 4, classes: int = 2, domains: int = 2, unlabeled: float = 0.0, seed: int = 0
) -> pd.DataFrame:
    """A clinic in which each patient has one domain and mostly one class."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), images)
    label = np.where(rng.random(len(patient)) < 0.2, rng.integers(0, classes, len(patient)), patient % classes)
    table = pd.DataFrame(
        {
            "id": [f"image{i:05d}" for i in range(len(patient))],
            "patient": [f"p{i:04d}" for i in patient],
            "label": pd.array([f"class{i}" for i in label], dtype="string"),
            "domain": pd.array([f"scanner{i // classes % domains}" for i in patient], dtype="string"),
        }
    )
    table.loc[rng.random(len(table)) < unlabeled, "label"] = pd.NA
    return table


@st.composite
def clinics(draw: st.DrawFn, spanning: bool = True) -> pd.DataFrame:
    """Any clinic: unequal patients, mixed classes, unlabeled rows, patients who span domains."""
    classes = draw(st.integers(2, 4))
    patients = draw(st.integers(2 * classes + 2, 24))
    rows = []
    for one in range(patients):
        own = one % classes if one < 3 * classes else draw(st.integers(0, classes - 1))
        for turn in range(draw(st.integers(1, 4))):
            mixed = turn and draw(st.booleans())
            label = draw(st.integers(0, classes - 1)) if mixed else own
            hidden = turn and draw(st.booleans())
            domain = draw(st.integers(0, 1)) if spanning and turn else one % 2
            rows.append((f"p{one}", None if hidden else f"c{label}", f"d{domain}"))
    table = pd.DataFrame(rows, columns=["patient", "label", "domain"]).astype("string")
    table["id"] = [f"i{i}" for i in range(len(table))]
    return table.sample(frac=1, random_state=draw(st.integers(0, 9)))


RULES = st.sampled_from(["patients", "leave-one-out", "each-to-each", "dataset", "column"])


def prepared(table: pd.DataFrame, kind: str) -> tuple[pd.DataFrame, Test]:
    """Add what the rule needs."""
    number = table["patient"].str[1:].astype(int)
    if kind == "dataset":
        return table.assign(is_test=number % 3 == 0), Test(kind="dataset")
    if kind == "column":
        names = np.array(["test", "train", "val", "train"])
        return table.assign(part=names[number.to_numpy() % 4]), Test(kind="column", column="part")
    return table, Test(kind=kind)  # type: ignore[arg-type]


def split_or_skip(table: pd.DataFrame, kind: str, *, seed: int = 0, redraw: bool = True) -> pd.DataFrame | None:
    """Split, or None where the small clinic cannot carry the rule (the error must then say so)."""
    table, test = prepared(table, kind)
    try:
        return make_splits(table, test=test, repeats=2, redraw=redraw, seed=seed)
    except NotEnoughData as error:
        assert any(text in str(error) for text in ("patient", "Every patient", "All patients"))
        return None


@QUICK
@given(clinics(), RULES, st.integers(0, 5))
def test_every_row_stands_exactly_once_per_repeat_and_train_domain(table: pd.DataFrame, kind: str, seed: int):
    rows = split_or_skip(table, kind, seed=seed)
    if rows is None:
        return
    assert list(rows.columns) == COLUMNS
    for _, part in rows.groupby(["repeat", "train_domain"]):
        assert sorted(part["id"]) == sorted(table["id"])
    domains = {
        "leave-one-out": {"not:d0", "not:d1"},
        "each-to-each": {"d0", "d1"},
    }.get(kind, {"all"})
    assert set(rows["train_domain"]) == domains
    assert set(rows["repeat"]) == {0, 1}


@QUICK
@given(clinics(), RULES, st.integers(0, 5))
def test_no_patient_is_on_two_sides(table: pd.DataFrame, kind: str, seed: int):
    rows = split_or_skip(table, kind, seed=seed)
    if rows is not None:
        assert rows.groupby(["repeat", "train_domain", "patient"])["role"].nunique().max() == 1


@QUICK
@given(clinics(), RULES, st.integers(0, 5))
def test_ranks_number_the_labeled_training_rows_and_nothing_else(table: pd.DataFrame, kind: str, seed: int):
    rows = split_or_skip(table, kind, seed=seed)
    if rows is None:
        return
    rows = rows.merge(table[["id", "label", "domain"]], on="id")
    for (_, name), part in rows.groupby(["repeat", "train_domain"]):
        labeled = (part["role"] != "test") & part["label"].notna()
        if kind == "each-to-each":
            labeled &= part["domain"] == name
        assert (part["rank"].notna() == labeled).all()
        assert sorted(part.loc[labeled, "rank"]) == list(range(int(labeled.sum())))


@QUICK
@given(clinics(), RULES, st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_split_does_not_depend_on_the_order_of_rows(table: pd.DataFrame, kind: str, seed: int, random):
    rows = split_or_skip(table, kind, seed=seed)
    order = list(range(len(table)))
    random.shuffle(order)
    again = split_or_skip(table.iloc[order], kind, seed=seed)
    assert (rows is None) == (again is None)
    if rows is not None and again is not None:
        pd.testing.assert_frame_equal(rows, again)


@QUICK
@given(clinics(spanning=False), st.integers(0, 3))
def test_every_class_is_trained_on_and_tested_or_the_error_names_one(table: pd.DataFrame, seed: int):
    try:
        rows = make_splits(table, test=PATIENTS, repeats=1, redraw=True, seed=seed)
    except NotEnoughData as error:
        assert "Class `c" in str(error)
        return
    rows = rows.merge(table[["id", "label"]], on="id").dropna(subset="label")
    for _, part in rows.groupby("label"):
        assert set(part["role"] == "test") == {True, False}


@QUICK
@given(clinics(), st.integers(0, 5))
def test_leave_one_out_tests_exactly_the_patients_of_the_domain(table: pd.DataFrame, seed: int):
    rows = split_or_skip(table, "leave-one-out", seed=seed)
    if rows is None:
        return
    for name in ("d0", "d1"):
        part = rows[(rows["train_domain"] == f"not:{name}") & (rows["repeat"] == 0)]
        tested = set(part.loc[part["role"] == "test", "patient"])
        assert tested == set(table.loc[table["domain"] == name, "patient"])


@QUICK
@given(clinics(), st.integers(0, 5))
def test_each_to_each_shares_the_test_patients_and_holds_out_some_of_each_domain(table: pd.DataFrame, seed: int):
    rows = split_or_skip(table, "each-to-each", seed=seed)
    if rows is None:
        return
    for _, repeat in rows.groupby("repeat"):
        tests = {
            name: frozenset(part.loc[part["role"] == "test", "id"]) for name, part in repeat.groupby("train_domain")
        }
        assert len(set(tests.values())) == 1
        tested = table[table["id"].isin(next(iter(tests.values())))]
        assert set(tested["domain"]) == {"d0", "d1"}
        foreign = repeat.merge(table[["id", "domain"]], on="id")
        foreign = foreign[foreign["domain"] != foreign["train_domain"]]
        assert foreign["rank"].isna().all()


def test_the_same_seed_gives_the_same_split_and_another_seed_another():
    table = make_table()
    first = make_splits(table, test=PATIENTS, repeats=3, redraw=True, seed=0)
    pd.testing.assert_frame_equal(first, make_splits(table, test=PATIENTS, repeats=3, redraw=True, seed=0))
    other = make_splits(table, test=PATIENTS, repeats=3, redraw=True, seed=1)
    assert split_hash(first[first["repeat"] == 0]) != split_hash(other[other["repeat"] == 0])
    assert not first["role"].equals(other["role"])


def test_redraw_changes_the_test_patients_and_no_redraw_only_the_label_order():
    table = make_table(patients=40)

    def tested(rows: pd.DataFrame) -> list[frozenset[str]]:
        return [frozenset(part.loc[part["role"] == "test", "id"]) for _, part in rows.groupby("repeat")]

    redrawn = make_splits(table, test=PATIENTS, repeats=4, redraw=True, seed=0)
    kept = make_splits(table, test=PATIENTS, repeats=4, redraw=False, seed=0)
    assert len(set(tested(redrawn))) == 4
    assert len(set(tested(kept))) == 1
    orders = [tuple(part.sort_values("rank")["id"]) for _, part in kept.groupby("repeat")]
    assert len(set(orders)) == 4


def test_a_fifth_of_the_patients_is_tested_and_a_fifth_of_the_others_validates():
    table = make_table(patients=135)
    rows = make_splits(table, test=PATIENTS, repeats=2, redraw=True, seed=0)
    counts = rows.groupby(["repeat", "role"])["patient"].nunique()
    assert counts.loc[0].to_dict() == {"test": 27, "train": 86, "val": 22}
    assert counts.loc[1].to_dict() == {"test": 27, "train": 86, "val": 22}


def test_patients_without_labels_never_validate():
    table = make_table(patients=40)
    hidden = table["patient"] >= "p0020"
    table.loc[hidden, "label"] = pd.NA
    rows = make_splits(table, test=PATIENTS, repeats=5, redraw=True, seed=0)
    assert set(rows.loc[rows["patient"] >= "p0020", "role"]) == {"train", "test"}
    assert "val" in set(rows["role"])


def test_each_patient_is_drawn_equally_often():
    has = np.zeros((10, 2), dtype=bool)
    has[:5, 0] = has[5:, 1] = True
    rng = np.random.default_rng(0)
    times = sum(draw_patients(has, groups=np.zeros(10), share=Fraction(1, 5), rng=rng) for _ in range(2000))
    assert np.abs(times / 2000 - 0.2).max() < 0.04  # four standard errors


def test_each_class_pattern_gives_its_share_rounded_up_or_down():
    has = np.zeros((100, 3), dtype=bool)
    has[:50, 0] = has[30:80, 1] = has[80:, 2] = True
    chosen = draw_patients(has, groups=np.zeros(100), share=Fraction(1, 5), rng=np.random.default_rng(1))
    assert chosen.sum() == 20
    assert [chosen[:30].sum(), chosen[30:50].sum(), chosen[50:80].sum(), chosen[80:].sum()] == [6, 4, 6, 4]


def test_two_rare_classes_that_share_their_only_two_patients_are_on_both_sides():
    has = np.zeros((50, 3), dtype=bool)
    has[:, 0] = True
    has[:2, 1] = has[:2, 2] = True
    for seed in range(20):
        chosen = draw_patients(has, groups=np.zeros(50), share=Fraction(1, 5), rng=np.random.default_rng(seed))
        assert chosen[:2].sum() == 1
        assert chosen.sum() == 10


def test_a_rare_class_of_three_patients_keeps_two_for_training():
    has = np.zeros((60, 2), dtype=bool)
    has[3:, 0] = has[:3, 1] = True
    for seed in range(20):
        chosen = draw_patients(has, groups=np.zeros(60), share=Fraction(1, 2), rng=np.random.default_rng(seed))
        assert chosen[:3].sum() == 1


# ------------------------------------------------------------------------------------------------ the class order


def quota(sizes: list[int], n: int) -> list[Fraction]:
    """Literal water level: max(least, x N_c) adding up to n, by holding ever more classes at their least."""
    least = [min(2, size) for size in sizes]
    held: set[int] = set()
    while True:
        rest = Fraction(
            n - sum(least[c] for c in held), sum(size for c, size in enumerate(sizes) if c not in held) or 1
        )
        now = [Fraction(least[c]) if c in held else rest * size for c, size in enumerate(sizes)]
        low = {c for c in range(len(sizes)) if now[c] < least[c]}
        if not low:
            return now
        held |= low


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=7))
def test_every_prefix_is_within_one_of_its_quota_in_every_class(sizes: list[int]):
    sequence = class_sequence(np.array(sizes))
    assert np.bincount(sequence, minlength=len(sizes)).tolist() == sizes
    start = sum(min(2, size) for size in sizes)
    assert np.bincount(sequence[:start], minlength=len(sizes)).tolist() == [min(2, size) for size in sizes]
    count = [min(2, size) for size in sizes]
    for n in range(start, sum(sizes) + 1):
        if n > start:
            count[sequence[n - 1]] += 1
        assert all(abs(c - q) < 1 for c, q in zip(count, quota(sizes, n), strict=True))


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.int64, st.integers(1, 9), elements=st.integers(2, 60)))
def test_past_the_forced_start_every_class_is_within_one_of_its_share(sizes: np.ndarray):
    sequence = class_sequence(sizes)
    total = sizes.sum()
    counts = np.cumsum(sequence[:, None] == np.arange(len(sizes)), axis=0)
    n = np.arange(1, total + 1)[:, None]
    reached = (n * sizes >= 2 * total).all(axis=1)  # no class is above its share because of the forced start
    gaps = np.abs(counts * total - n * sizes)[reached]
    assert (gaps < total).all()


def test_a_million_labels_of_seven_classes_stay_within_one_of_their_shares():
    sizes = np.array([5, 700, 11_003, 40_000, 47_000, 1_292, 100_000])
    sequence = class_sequence(sizes)
    total, n = sizes.sum(), np.arange(1, sizes.sum() + 1)
    for code, size in enumerate(sizes):
        count = np.cumsum(sequence == code)
        gap = np.abs(count * total - n * size)[n >= 2 * total // 5]
        assert gap.max() < total
    assert np.bincount(sequence).tolist() == sizes.tolist()


def test_small_class_orders_by_hand():
    assert class_sequence(np.array([2, 4])).tolist() == [0, 1, 0, 1, 1, 1]
    # 3 of 12 are of class 0: the third comes when 12 rows have 2.5 of it, that is at the 10th
    assert class_sequence(np.array([3, 9])).tolist() == [0, 1, 0, 1, 1, 1, 1, 1, 1, 0, 1, 1]
    assert class_sequence(np.array([1, 3, 0])).tolist() == [0, 1, 1, 1]


def test_the_first_two_labels_of_each_class_come_from_two_patients():
    table = make_table(patients=12, images=30, classes=3)
    rows = make_splits(table, test=PATIENTS, repeats=10, redraw=True, seed=3).merge(table[["id", "label"]], on="id")
    for _, part in rows[rows["rank"].notna()].sort_values("rank").groupby(["repeat", "label"]):
        assert part["patient"].iloc[0] != part["patient"].iloc[1]
    start = rows[rows["rank"] < 6].groupby(["repeat", "label"]).size()
    assert (start == 2).all()


def test_val_rows_are_spread_evenly_over_the_label_order():
    table = make_table(patients=200, images=2)
    rows = make_splits(table, test=PATIENTS, repeats=3, redraw=True, seed=0)
    for _, part in rows[rows["rank"].notna()].sort_values("rank").groupby("repeat"):
        val = (part["role"] == "val").to_numpy()
        share = val.mean()
        assert np.abs(np.cumsum(val) - share * np.arange(1, len(val) + 1)).max() < 4


# ------------------------------------------------------------------------------------------------------- volumes


def literal_farthest(frames: list[int]) -> list[int]:
    chosen = [(len(frames) - 1) // 2]
    while len(chosen) < len(frames):
        left = [i for i in range(len(frames)) if i not in chosen]
        chosen.append(max(left, key=lambda i: (min(abs(frames[i] - frames[c]) for c in chosen), -i)))
    return chosen


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 200), min_size=1, max_size=30))
def test_slices_come_in_farthest_point_order(frames: set[int]):
    ordered = sorted(frames)
    assert list(farthest_point_order(tuple(ordered))) == literal_farthest(ordered)


def make_volumes(*, volumes: int = 10, slices: int = 7) -> pd.DataFrame:
    """Volumes of one patient each; the first and the last slice are empty, the last volume has no mask."""
    rows = [(f"v{v:02d}", s) for v in range(volumes) for s in range(slices)]
    table = pd.DataFrame(rows, columns=["volume", "frame"])
    table["id"] = [f"{v}#{s:04d}" for v, s in rows]
    table["patient"] = table["volume"]
    table["label"] = pd.array([pd.NA] * len(table), dtype="string")
    table["domain"] = pd.array([pd.NA] * len(table), dtype="string")
    table["foreground"] = pd.array(table["frame"].between(1, slices - 2), dtype="boolean")
    table.loc[table["volume"] == rows[-1][0], "foreground"] = pd.NA
    return table


def test_volumes_are_ranked_whole_and_slices_within_them():
    table = make_volumes()
    rows = make_splits(table, test=PATIENTS, repeats=3, redraw=True, seed=0, task="segmentation")
    rows = rows.merge(table[["id", "volume", "frame", "foreground"]], on="id")
    for _, part in rows.groupby("repeat"):
        labeled = part[(part["role"] != "test") & part["foreground"].notna()]
        assert (part["volume_rank"].notna() == part.index.isin(labeled.index)).all()
        assert labeled.groupby("volume")["volume_rank"].nunique().max() == 1
        assert sorted(labeled["volume_rank"].unique()) == list(range(labeled["volume"].nunique()))
        for _, volume in labeled.groupby("volume"):
            assert volume.dropna(subset="rank").sort_values("rank")["frame"].tolist() == [3, 1, 5, 2, 4]
            assert volume["rank"].notna().equals(volume["foreground"].astype(bool))


def test_the_first_volume_has_foreground():
    table = make_volumes(volumes=12)
    table.loc[table["volume"] < "v09", "foreground"] = False
    rows = make_splits(table, test=PATIENTS, repeats=8, redraw=True, seed=0, task="segmentation")
    first = rows[rows["volume_rank"] == 0]
    assert (first.groupby("repeat")["rank"].count() > 0).all()


def test_a_volume_of_two_patients_is_refused():
    table = make_volumes()
    table.loc[0, "patient"] = "v05"
    with pytest.raises(DataError, match="Volume `v00` belongs to more than one patient"):
        make_splits(table, test=PATIENTS, repeats=1, redraw=True, seed=0, task="segmentation")


def test_single_images_with_masks_are_ranked_with_both_kinds_of_mask():
    table = make_volumes(volumes=12).drop(columns=["volume", "frame"])
    rows = make_splits(table, test=PATIENTS, repeats=1, redraw=True, seed=0, task="segmentation")
    rows = rows.merge(table[["id", "foreground"]], on="id")
    assert rows["volume_rank"].isna().all()
    assert rows.loc[rows["rank"] < 4, "foreground"].sum() == 2


def test_without_labels_rows_are_split_but_not_ranked():
    table = make_table().assign(label=pd.NA)
    rows = make_splits(table, test=PATIENTS, repeats=1, redraw=True, seed=0, task="unlabeled")
    assert rows["rank"].isna().all()
    assert set(rows["role"]) == {"train", "test"}


# -------------------------------------------------------------------------------------------------------- errors


def test_the_column_decides_the_roles():
    table = make_table(patients=12)
    table["part"] = table["patient"].map(lambda name: ["train", "val", "test"][int(name[1:]) % 3])
    rows = make_splits(table, test=Test(kind="column", column="part"), repeats=2, redraw=True, seed=0)
    rows = rows.merge(table[["id", "part"]], on="id")
    assert rows["role"].equals(rows["part"].astype("string"))


def test_a_column_without_val_still_gets_val_rows():
    table = make_table(patients=12)
    table["part"] = table["patient"].map(lambda name: "test" if name < "p0004" else "train")
    rows = make_splits(table, test=Test(kind="column", column="part"), repeats=2, redraw=True, seed=0)
    assert set(rows["role"]) == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"part": "holdout"}, r"Column `part` holds `holdout` \(80 rows\); its values must be train, val or test\."),
        ({"part": None}, r"Column `part` holds an empty cell \(80 rows\)"),
        ({"part": "train"}, r"Column `part` has no row `test`"),
        ({"part": "test"}, r"Column `part` has no row `train`"),
        ({"parts": "test"}, r"Column `part` of the test rule is not in the manifest. Did you mean `parts`\?"),
    ],
)
def test_wrong_split_columns_are_named(change: dict[str, str | None], text: str):
    with pytest.raises(DataError, match=text):
        make_splits(
            make_table().assign(**change), test=Test(kind="column", column="part"), repeats=1, redraw=True, seed=0
        )


def test_a_test_part_without_any_label_is_refused():
    table = make_table(patients=12)
    table["part"] = table["patient"].map(lambda name: "test" if name < "p0004" else "train")
    table.loc[table["part"] == "test", "label"] = pd.NA
    with pytest.raises(NotEnoughData, match="No row with `test` in column `part` has a label"):
        make_splits(table, test=Test(kind="column", column="part"), repeats=1, redraw=True, seed=0)


def test_a_patient_on_both_sides_of_the_column_is_counted_and_named():
    table = make_table()
    table["part"] = np.where(np.arange(len(table)) < 6, "test", "train")
    with pytest.raises(DataError, match=r"1 patients are on two sides of column `part`, for example `p0001`"):
        make_splits(table, test=Test(kind="column", column="part"), repeats=1, redraw=True, seed=0)


def test_a_patient_in_both_datasets_is_named():
    table = make_table()
    table["is_test"] = np.arange(len(table)) < 6
    with pytest.raises(DataError, match=r"1 patients are on two sides of the training and the test dataset"):
        make_splits(table, test=Test(kind="dataset"), repeats=1, redraw=True, seed=0)


@pytest.mark.parametrize(
    ("table", "kind", "error", "text"),
    [
        (make_table(patients=1, classes=1).assign(label=["a", "b", "a", "b"]), "patients", NotEnoughData, "one patient only, `p0000`"),
        (make_table(classes=1), "patients", DataError, "Column `label` holds one class only, `class0`"),
        (make_table().assign(label=pd.NA), "patients", DataError, "Column `label` holds no label"),
        (make_table(patients=3, images=1, classes=3), "patients", NotEnoughData, "Class `class1` has 1 patient; it needs two"),
        (make_table(domains=1), "leave-one-out", DataError, "All images have the domain `scanner0`; a leave-one-out test needs two"),
        (make_table().assign(domain=pd.NA), "each-to-each", DataError, "80 images have no domain; an each-to-each test needs one for each"),
        (make_table(patients=3, classes=2), "each-to-each", NotEnoughData, "Domain `scanner1` has one patient"),
        (make_table().iloc[:0], "patients", NotEnoughData, "The dataset has no usable image"),
        (make_table().assign(id="same"), "patients", DataError, "Id `same` stands in more than one row"),
        (make_table().assign(patient=pd.NA), "patients", DataError, "80 rows have no patient"),
        (make_table().assign(domain=lambda t: np.where(t.index % 2, "a", "b")), "leave-one-out", NotEnoughData, "Every patient has images in domain `a`"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_split_are_refused(table: pd.DataFrame, kind: str, error: type[Exception], text: str):
    with pytest.raises(error, match=text):
        make_splits(table, test=Test(kind=kind), repeats=1, redraw=True, seed=0)  # type: ignore[arg-type]


def test_three_classes_that_pairwise_share_three_patients_cannot_all_be_on_both_sides():
    table = pd.DataFrame(
        [("p0", "a"), ("p0", "c"), ("p1", "a"), ("p1", "b"), ("p2", "b"), ("p2", "c")], columns=["patient", "label"]
    )
    table = table.assign(id=[f"i{i}" for i in range(6)], domain=pd.NA)
    with pytest.raises(NotEnoughData, match="cannot be both trained on and tested"):
        make_splits(table, test=PATIENTS, repeats=1, redraw=True, seed=0)


@pytest.mark.parametrize("text", ["0%", "100%", "20", "x%", "1/5%", "-5%"])
def test_shares_that_are_no_percentage_are_refused(text: str):
    with pytest.raises(ConfigError, match="is no percentage between 0 and 100; write `20%`"):
        parse_share(text)


def test_shares_are_exact():
    assert parse_share("20%") == Fraction(1, 5)
    assert parse_share("12.5 %") == Fraction(1, 8)


def test_small_classes_are_counted_by_patient():
    table = make_table(patients=6, classes=3)
    table["label"] = pd.array([f"class{int(name[1:]) % 3}" for name in table["patient"]], dtype="string")
    table.loc[table["patient"] == "p0005", "label"] = "class0"
    assert small_classes(table, 5) == {"class0": 3, "class1": 2, "class2": 1}
    assert small_classes(table, 3) == {"class1": 2, "class2": 1}


def test_the_split_hash_ignores_row_order_and_sees_every_role_and_rank():
    rows = make_splits(make_table(), test=PATIENTS, repeats=1, redraw=True, seed=0)
    assert split_hash(rows) == split_hash(rows.sample(frac=1, random_state=0))
    assert split_hash(rows) != split_hash(rows.assign(role=rows["role"].replace("val", "train")))
    assert split_hash(rows) != split_hash(rows.assign(rank=rows["rank"] + 1))

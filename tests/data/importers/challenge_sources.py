"""Tiny sources with the published structure of ISIC 2018 (task 3), ISIC 2017 (part 3) and APTOS 2019."""

from __future__ import annotations

from pathlib import Path

from tests.import_sources import picture, write_png

CODES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
ISIC_2018: dict[str, list[tuple[str, str]]] = {
    "Training": [
        *(("ISIC_0027419", "BKL"), ("ISIC_0025030", "BKL"), ("ISIC_0024306", "NV"), ("ISIC_0024307", "NV")),
        *(("ISIC_0024308", "NV"), ("ISIC_0024313", "MEL"), ("ISIC_0024331", "BCC"), ("ISIC_0024329", "AKIEC")),
        *(("ISIC_0024330", "DF"), ("ISIC_0024370", "VASC")),
    ],
    "Validation": [("ISIC_0034321", "NV"), ("ISIC_0034322", "MEL")],
    "Test": [("ISIC_0034524", "NV"), ("ISIC_0034525", "BKL"), ("ISIC_0034526", "MEL")],
}
"""Part -> image and diagnosis."""
LESIONS = {
    "ISIC_0027419": ("HAM_0000118", "histopathology"),
    "ISIC_0025030": ("HAM_0000118", "histopathology"),
    "ISIC_0024306": ("HAM_0000550", "single image expert consensus"),
    "ISIC_0024307": ("HAM_0003577", "single image expert consensus"),
    "ISIC_0024308": ("HAM_0001477", "serial imaging showing no change"),
    "ISIC_0024313": ("HAM_0002525", "histopathology"),
    "ISIC_0024331": ("HAM_0007500", "histopathology"),
    "ISIC_0024329": ("HAM_0002644", "histopathology"),
    "ISIC_0024330": ("HAM_0002677", "confocal microscopy with consensus dermoscopy"),
    "ISIC_0024370": ("HAM_0004500", "single image expert consensus"),
}
ISIC_2017: dict[str, list[tuple[str, str, str, str, str]]] = {
    "Training": [
        ("ISIC_0000000", "0.0", "0.0", "55", "female"),
        ("ISIC_0000001", "0.0", "0.0", "30", "female"),
        ("ISIC_0000002", "1.0", "0.0", "60", "female"),
        ("ISIC_0000004", "1.0", "0.0", "80", "male"),
        ("ISIC_0012290", "0.0", "1.0", "unknown", "unknown"),
    ],
    "Validation": [("ISIC_0001769", "0.0", "0.0", "25", "male"), ("ISIC_0001852", "1.0", "0.0", "unknown", "male")],
    "Test_v2": [
        ("ISIC_0012086", "0.0", "0.0", "20", "female"),
        ("ISIC_0012092", "0.0", "1.0", "65", "male"),
        ("ISIC_0012369", "1.0", "0.0", "70", "male"),
    ],
}
"""Part -> image, melanoma, seborrheic_keratosis, age_approximate, sex."""
APTOS_TRAIN = {
    "000c1434d8d7": 2,
    "001639a390f0": 4,
    "0024cdab0c1e": 1,
    "002c21358ce6": 0,
    "0104b032c141": 3,
    "005b95c28852": 0,
}
APTOS_TEST = ("0005cfc8afb6", "003f0afdcd15", "006efc72b638")


def write_lines(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{one}\n" for one in lines), encoding="utf-8")
    return path


def write_picture(path: Path, number: int) -> Path:
    """Picture `number` in the format of the path's suffix."""
    return write_png(path, picture(number))


def one_hot(image: str, code: str) -> str:
    return ",".join([image, *("1.0" if name == code else "0.0" for name in CODES)])


def make_isic_2018(folder: Path, *, parts: tuple[str, ...] = tuple(ISIC_2018), lesions: bool = True) -> Path:
    """As the archives unpack: an `Input` and a `GroundTruth` folder per part, each with its texts, and the groupings."""
    for part in parts:
        rows = ISIC_2018[part]
        for image, _ in rows:
            write_picture(folder / f"ISIC2018_Task3_{part}_Input" / f"{image}.jpg", int(image[5:]))
        truth = f"ISIC2018_Task3_{part}_GroundTruth"
        write_lines(
            folder / truth / f"{truth}.csv",
            ",".join(["image", *CODES]),
            *(one_hot(image, code) for image, code in rows),
        )
        for texts in (f"ISIC2018_Task3_{part}_Input", truth):
            write_lines(folder / texts / "LICENSE.txt", "license")
            write_lines(folder / texts / "ATTRIBUTION.txt", "attribution")
    if lesions:
        lines = [f"{image},{lesion},{how}" for image, (lesion, how) in LESIONS.items()]
        write_lines(
            folder / "ISIC2018_Task3_Training_LesionGroupings.csv", "image,lesion_id,diagnosis_confirm_type", *lines
        )
    return folder


def make_isic_2017(folder: Path, *, parts: tuple[str, ...] = tuple(ISIC_2017)) -> Path:
    """As the archives unpack: images, superpixels and metadata in one folder per part, the ground truth beside it."""
    for part in parts:
        rows, data = ISIC_2017[part], folder / f"ISIC-2017_{part}_Data"
        for image, *_ in rows:
            write_picture(data / f"{image}.jpg", int(image[5:]))
            write_png(data / f"{image}_superpixels.png", picture(1))
        write_lines(
            data / f"ISIC-2017_{part}_Data_metadata.csv",
            "image_id,age_approximate,sex",
            *(f"{image},{age},{sex}" for image, _, _, age, sex in rows),
        )
        write_lines(
            folder / f"ISIC-2017_{part}_Part3_GroundTruth.csv",
            "image_id,melanoma,seborrheic_keratosis",
            *(f"{image},{melanoma},{keratosis}" for image, melanoma, keratosis, *_ in rows),
        )
    return folder


def make_aptos_2019(folder: Path) -> Path:
    """As the archive unpacks: two folders of images, two tables, and the sample submission with its placeholders."""
    for image in APTOS_TRAIN:
        write_png(folder / "train_images" / f"{image}.png", picture(int(image[:6], 16)))
    for image in APTOS_TEST:
        write_png(folder / "test_images" / f"{image}.png", picture(int(image[:6], 16)))
    write_lines(
        folder / "train.csv", "id_code,diagnosis", *(f"{image},{grade}" for image, grade in APTOS_TRAIN.items())
    )
    write_lines(folder / "test.csv", "id_code", *APTOS_TEST)
    write_lines(folder / "sample_submission.csv", "id_code,diagnosis", *(f"{image},0" for image in APTOS_TEST))
    return folder

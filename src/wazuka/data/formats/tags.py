"""Which DICOM tags become attributes, and how their values are cleaned; which tags identify a person.

An allow-list: whatever is not named here is never read into a manifest. Dates, free text and identifiers are not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

IDENTIFYING = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientBirthTime", "PatientBirthName", "PatientMotherBirthName", "OtherPatientIDs",
    "OtherPatientNames", "OtherPatientIDsSequence", "PatientAddress", "PatientTelephoneNumbers", "MilitaryRank", "EthnicGroup", "Occupation",
    "PatientComments", "AdditionalPatientHistory", "CountryOfResidence", "RegionOfResidence", "PatientReligiousPreference", "ResponsiblePerson",
    "InsurancePlanIdentification", "IssuerOfPatientID", "MedicalRecordLocator", "AccessionNumber", "InstitutionName", "InstitutionAddress",
    "InstitutionalDepartmentName", "StationName", "ReferringPhysicianName", "ReferringPhysicianAddress", "ReferringPhysicianTelephoneNumbers",
    "PhysiciansOfRecord", "PerformingPhysicianName", "NameOfPhysiciansReadingStudy", "RequestingPhysician", "OperatorsName",
    "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "AdmissionID", "ImageComments",
)  # fmt: skip
"""Keywords of tags that name a person, a place or a day (after the DICOM confidentiality profile, PS3.15 Annex E)."""

_WORTHLESS = {"", "UNKNOWN", "N/A", "NA", "NONE", "ANONYMIZED", "ANONYMOUS", "NAN", "NULL", "UNSPECIFIED"}


def clean(text: str) -> str | None:
    """Trim and shorten a coded value; None where it says nothing.

    >>> clean("  GE   MEDICAL SYSTEMS "), clean("Unknown")
    ('GE MEDICAL SYSTEMS', None)
    """
    text = re.sub(r"\s+", " ", "".join(one for one in text if one.isprintable() or one.isspace())).strip()[:64]
    return None if text.upper() in _WORTHLESS else text


def sex(text: str) -> str | None:
    """F, M or O; None for anything else.

    >>> sex("female"), sex("M"), sex("")
    ('F', 'M', None)
    """
    first = text.strip()[:1].upper()
    return first if first in "FMO" and first else None


def age_group(text: str) -> str | None:
    """Decade of an age (`045Y`, `6M`, `45`, `45.5`); from 90 on one group, because high ages identify people.

    >>> age_group("045Y"), age_group("6M"), age_group("093Y"), age_group("x")
    ('40-49', '0-9', '90+', None)
    """
    found = re.fullmatch(r"\s*(\d{1,4})(?:\.\d+)?\s*([YMWD]?)\s*", text.upper())
    if not found:
        return None
    years = int(found[1]) / {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}[found[2]]
    if years > 130:
        return None
    decade = int(years // 10) * 10
    return "90+" if decade >= 90 else f"{decade}-{decade + 9}"


def laterality(text: str) -> str | None:
    """L, R or B (both).

    >>> laterality("left"), laterality("R"), laterality("U")
    ('L', 'R', None)
    """
    first = text.strip()[:1].upper()
    return first if first in ("L", "R", "B") else None


def flag(text: str) -> str | None:
    """`yes` where contrast agent is named, `no` where it is denied; the free text itself is never kept.

    >>> flag("Omnipaque 350"), flag("none"), flag("")
    ('yes', 'no', None)
    """
    text = text.strip().upper()
    if not text:
        return None
    return (
        "no"
        if text in {"NO", "NONE", "N", "WITHOUT", "NO CONTRAST", "NON CONTRAST", "UNENHANCED", "FALSE", "0"}
        else "yes"
    )


ATTRIBUTES: dict[str, tuple[str, Callable[[str], str | None]]] = {
    "PatientSex": ("sex", sex),
    "PatientAge": ("age_group", age_group),
    "ViewPosition": ("view", clean),
    "Manufacturer": ("maker", clean),
    "ManufacturerModelName": ("scanner", clean),
    "BodyPartExamined": ("body_part", clean),
    "ImageLaterality": ("laterality", laterality),
    "Laterality": ("laterality", laterality),
    "ContrastBolusAgent": ("contrast", flag),
    "MagneticFieldStrength": ("field_strength_t", clean),
    "SliceThickness": ("slice_thickness_mm", clean),
    "ConvolutionKernel": ("kernel", clean),
}
"""DICOM keyword -> attribute and what cleans its value; the first tag that speaks wins."""


def read_attributes(dataset: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Read the allow-listed attributes of a pydicom dataset: values and their sources."""
    values: dict[str, str] = {}
    sources: dict[str, str] = {}
    for keyword, (name, cleaner) in ATTRIBUTES.items():
        raw = dataset.get(keyword)
        if raw is None or name in values:
            continue
        parts = (
            [str(one) for one in raw]
            if isinstance(raw, list | tuple) or type(raw).__name__ == "MultiValue"
            else [str(raw)]
        )
        value = cleaner(parts[0]) if parts else None
        if value is not None:
            values[name], sources[name] = value, f"DICOM tag {keyword}"
    return values, sources


def identifying(dataset: Any) -> tuple[str, ...]:
    """Names of the identifying tags that are not empty, private ones with a text that names a person included."""
    found = [keyword for keyword in IDENTIFYING if str(dataset.get(keyword) or "").strip(" ^[]") not in ("", "None")]
    for element in dataset:
        if element.tag.is_private and element.VR == "PN" and str(element.value).strip(" ^"):
            found.append(f"private {element.tag}")
    return tuple(found)

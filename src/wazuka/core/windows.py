"""Windows of Hounsfield units: the usual reading presets for CT."""

WINDOWS: dict[str, tuple[float, float]] = {
    "soft-tissue": (40.0, 400.0),
    "abdomen": (50.0, 400.0),
    "liver": (80.0, 200.0),
    "lung": (-600.0, 1500.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
}
"""Name -> (center, width) in Hounsfield units; `liver` (our choice) holds both plain (50 to 70 HU) and
contrast-enhanced liver (100 to 180 HU)."""
DEFAULT_WINDOW = "soft-tissue"
"""Where a study names none."""

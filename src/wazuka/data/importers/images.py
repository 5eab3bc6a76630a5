"""Every image and volume under a folder, of any format and without labels: what `wazuka predict` does with new files.

Never recognized by itself: folder names and masks mean nothing here.
"""

from __future__ import annotations

import os
from pathlib import Path

from wazuka.core.errors import DataError
from wazuka.data.decode import is_image
from wazuka.data.importers.listing import ImportOptions, Item, Listing

KIND = "images"


def recognize(source: Path) -> str | None:
    """Nothing: this kind is asked for, not found."""
    del source
    return None


def read(source: Path, options: ImportOptions) -> Listing:
    """List every file that can be opened as an image.

    Raises:
        DataError: If there is none.
    """
    del options
    if source.is_file():
        paths = [source] if is_image(source) else []
    else:
        paths = []
        for folder, folders, files in os.walk(source):
            folders[:] = sorted(one for one in folders if not one.startswith("."))
            paths += [Path(folder) / one for one in sorted(files)]
        paths = sorted(one for one in paths if is_image(one))
    if not paths:
        raise DataError(
            f"{source} holds no image that Wazuka can read; give an image, a folder of images or a dataset."
        )
    return Listing(items=[Item(path=one) for one in paths])

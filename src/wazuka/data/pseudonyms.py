"""Salted pseudonyms of DICOM patients: HMAC-SHA256 of the identifier under a salt that never enters a dataset.

The salt is the user's (`wazuka import --salt-file FILE`), else one made once in the user's configuration folder. The
same patient under the same salt has the same pseudonym in every dataset; without the salt it leads nowhere.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path

from wazuka.core.errors import DataError
from wazuka.core.places import config_folder

SALT_NAME = "salt"
SALT_BYTES = 32
SHORTEST_SALT = 16
LONGEST_SALT = 2**20
"""Bytes read of a salt file, which may be a device without an end."""
DIGITS = 16
"""Hexadecimal digits of a pseudonym: 64 bits."""


def read_salt(salt_file: Path | None = None) -> bytes:
    """Read the user's salt file, else the salt of the configuration folder, which is made (mode 0600) if absent.

    Raises:
        DataError: If the file is missing, unreadable or shorter than `SHORTEST_SALT` bytes.
    """
    path = config_folder() / SALT_NAME if salt_file is None else Path(salt_file).expanduser()
    if salt_file is None and not path.exists():
        _make_salt(path)
    try:
        with path.open("rb") as file:
            salt = file.read(LONGEST_SALT).strip()
    except OSError as error:
        raise DataError(
            f"Salt file {path} cannot be read ({error.strerror}); give a readable file of at least {SHORTEST_SALT} bytes."
        ) from error
    if len(salt) < SHORTEST_SALT:
        raise DataError(f"Salt file {path} has {len(salt)} bytes; a salt needs at least {SHORTEST_SALT}.")
    return salt


def _make_salt(path: Path) -> None:
    """Write a salt whole or not at all; of two processes that make one at once, the first wins and both read it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".salt.", suffix=".part")  # mode 0600
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_hex(SALT_BYTES).encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, path)  # unlike a rename this never replaces a salt that is there already
        except FileExistsError:
            return
    finally:
        part.unlink(missing_ok=True)


def pseudonym(identifier: str, salt: bytes) -> str:
    """Pseudonym of one identifier: `p-` and 16 hexadecimal digits; spaces around it do not count."""
    digest = hmac.new(salt, b"patient\x00" + identifier.strip().encode(), hashlib.sha256)
    return f"p-{digest.hexdigest()[:DIGITS]}"


def pseudonyms(identifiers: Iterable[str], salt: bytes) -> dict[str, str]:
    """Pseudonyms of many identifiers.

    Raises:
        DataError: If two different identifiers get the same pseudonym (one chance in 10^9 for 100,000 patients).
    """
    made = {one: pseudonym(one, salt) for one in set(identifiers)}
    if len(set(made.values())) < len({one.strip() for one in made}):
        raise DataError("Two patients got the same pseudonym; give another --salt-file.")
    return made


def salt_name(salt: bytes) -> str:
    """A name for the salt that does not give it away: datasets with equal names have comparable patients."""
    return hmac.new(salt, b"name of this salt", hashlib.sha256).hexdigest()[:DIGITS]

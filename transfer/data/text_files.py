"""Text as editors of every system save it: UTF-8 with or without a mark, UTF-16 with its mark, any line ending."""

from __future__ import annotations

import codecs
from pathlib import Path

from pretrain.base.errors import DataError

MAX_BYTES = 1 << 28  # a list of a million images has 100 MB
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """The text of a file. Raises DataError where it is absent or of another encoding; nothing is replaced or left out."""
    try:
        if path.exists() and not path.is_file():  # a device has no end
            raise DataError(f"{path} is a folder or a device, not a text file")
        if path.exists() and path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} has {path.stat().st_size} bytes; a text file is expected below {MAX_BYTES}")
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"no file at {path}") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise DataError(f"cannot read {path}: {error}") from None
    try:
        text = content.decode("utf-16" if content.startswith(_UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 or UTF-16 ({error.reason}); save it as UTF-8") from None
    if "\0" in text:
        raise DataError(f"{path} is not text in UTF-8 or UTF-16 (it holds null bytes); save it as UTF-8")
    return text


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines that are not blank, without white space at their ends. Raises DataError as `read_text`."""
    lines = enumerate(read_text(path).splitlines(), start=1)
    return [(number, stripped) for number, line in lines if (stripped := line.strip())]

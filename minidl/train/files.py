"""Files that are whole or not there at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import RunFolderError

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}


def reason(error: OSError) -> str:
    """What an operating-system error means, in plain words."""
    return _REASONS.get(error.errno or 0) or error.strerror or str(error)


def write_atomic(path: str | os.PathLike, content: bytes | str) -> None:
    """Write a file so that at every moment, even if the process is killed, its old or its new content is there, whole.

    A temporary file in the same folder is written and then moved into place. Text is UTF-8.
    Raises RunFolderError that names the file and the reason; the old content is then untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written: {reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):  # still there after a failure, or a Ctrl-C in between
            temporary.unlink()


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=2) + "\n")


def append_line(path: str | os.PathLike, line: str) -> None:
    """Add one line to a log. Logs grow, so they are appended to, not rewritten: a crash can cost only the last line."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written: {reason(error)}") from error


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of numbers as CSV; the columns are the keys of all rows, in order of appearance. Floats keep every digit."""
    import csv
    import io

    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

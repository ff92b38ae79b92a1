"""Files of others: what is to be known before a byte of them is read."""

import os
import stat
from pathlib import Path


def readable(path: str | os.PathLike[str]) -> Path:
    """The path, if it leads to a regular file: from a pipe one would wait, perhaps for ever.

    Raises:
      ValueError: for what is not there or is no regular file; names the path.
      TypeError: for what is no path; an integer would be the number of an open file.

    >>> readable("/")
    Traceback (most recent call last):
    ...
    ValueError: /: Is a directory, expected a readable file
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}, expected a readable file") from error
    except ValueError as error:  # a NUL in it
        raise ValueError(f"{str(path)!r}: {error}, expected the path of a file") from error
    if not stat.S_ISREG(mode):
        what = "Is a directory" if stat.S_ISDIR(mode) else "Is a pipe or a device"
        raise ValueError(f"{path}: {what}, expected a readable file")
    return path

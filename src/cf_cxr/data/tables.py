"""Reading the owners' tables: what is missing is said plainly, and no path leaves the data folder."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PureWindowsPath

import pandas as pd

from .errors import BadRowError, CXRDataError, MissingDataError
from .report import LoadReport


def find_file(folders: Sequence[Path], patterns: Sequence[str], what: str) -> Path:
    """The first file that matches, by pattern and then by folder; raises MissingDataError naming them all."""
    for pattern in patterns:
        for folder in folders:
            if matches := sorted(folder.glob(pattern)):
                return matches[-1]  # the newest release, by name
    raise MissingDataError(
        f"{what} is missing: no file {' or '.join(patterns)} in {', '.join(str(f) for f in folders)}."
    )


def read_table(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The named columns of a CSV file (also .gz) or a spreadsheet, or all with a name, as text.

    Empty cells are NaN, and no cell has space around it.

    Raises:
        MissingDataError: a column is missing; the message names it and those there are.
        CXRDataError: the file is no readable table, or has a column twice.
    """
    check_regular_file(path, "table")
    try:  # the header is the first row: as a header, pandas would rename a column that is there twice
        if path.suffix.lower() == ".xlsx":
            table = pd.read_excel(path, header=None, dtype=str)
        else:
            options = {"keep_default_na": False, "na_values": [""], "skipinitialspace": True}
            table = pd.read_csv(path, header=None, dtype=str, encoding="utf-8-sig", **options)
    except ImportError as error:
        raise CXRDataError(
            f"{path} is a spreadsheet, and reading it needs openpyxl: pip install openpyxl, "
            "or save the sheet as .csv beside it."
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # the readers raise many types on damaged files
        raise CXRDataError(
            f"{path} is no readable table: {error}. Save it as CSV in UTF-8, or download it again."
        ) from error
    if table.empty:
        raise CXRDataError(f"{path} is empty. Copy or download it again.")
    names = [name.strip() for name in table.iloc[0].fillna("")]
    if columns is None:
        columns = list(dict.fromkeys(name for name in names if name))
    check_columns(path, columns, [name for name in names if name])
    if twice := [name for name in columns if names.count(name) > 1]:
        raise CXRDataError(
            f"{path} has {names.count(twice[0])} columns {twice[0]!r}; which one counts is unknown. Remove or "
            "rename the others."
        )
    table = table.iloc[1:, [names.index(column) for column in columns]].reset_index(drop=True)
    table.columns = list(columns)
    return table.apply(lambda cells: cells.str.strip()).replace("", float("nan"))


def check_regular_file(path: Path, what: str) -> None:
    """Raises CXRDataError for what may never end, a pipe for instance, where the file `what` should be."""
    if not path.is_file():
        raise CXRDataError(f"{path} is not a regular file; it was not opened. Put the {what} itself there.")


def check_columns(path: Path, wanted: Iterable[str], there: Collection[str], remedy: str = "") -> None:
    """Raises MissingDataError, naming the columns of `path` that are missing and those that are there."""
    if missing := [name for name in wanted if name not in there]:
        raise MissingDataError(
            f"{path} has no column {', '.join(map(repr, missing))}; it has {', '.join(there)}.{remedy}"
        )


def path_inside(root: Path, name: str, table: Path) -> Path:
    """The file `name` of a table, which must lie in `root`.

    Tables are not trusted: a name that is absolute or leads outside with `..` is refused. (Links that the
    user put into the folder are followed.)

    Raises:
        BadRowError: the name leads outside.
    """
    text = str(name)
    windows = PureWindowsPath(text)
    clean = posixpath.normpath(text.replace("\\", "/"))
    bad = not text or "\0" in text or "://" in text or windows.drive or windows.root or text.startswith("~")
    if bad or clean.startswith(("/", "../")) or clean in (".", ".."):
        raise BadRowError(
            f"{table} names the image {text!r}, which is not inside {root}. Image names must be relative "
            "paths below the data folder."
        )
    return root / clean


def file_inside(root: Path, name: str, table: Path, image: str, report: LoadReport) -> str | None:
    """The path of `path_inside`, or None where it is refused (under the name `image`)."""
    try:
        return str(path_inside(root, name, table))
    except BadRowError as error:
        report.refuse(image, str(error))
        return None

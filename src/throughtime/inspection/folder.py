"""A measurement's folder: written whole or not at all, and read back into records. No torch.

measurement.json   what was measured, on what, how, and what was left out
flows/*.npz        a flow record for each layer and direction, in the model's order
report.html
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from throughtime.errors import InputError
from throughtime.records import FlowRecord, Measurement, Study, read, read_json, write, write_json
from throughtime.study.folder import Folder
from throughtime.view import report

NAME = "measurement.json"


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raise InputError if a measurement may not, or cannot, be kept at `path`."""
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        why = "may not be written to" if above.is_dir() else "is no folder"
        raise InputError(f"{path}: cannot be written, as {above} {why}; choose another --out.")
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / NAME).is_file():
        raise InputError(f"{path} is not the folder of a measurement, so it is not replaced; choose another --out.")
    if not overwrite:
        raise InputError(f"{path} exists already; choose another --out, or replace it with --overwrite.")


def keep(measurement: Measurement, path: Path, *, overwrite: bool = False) -> None:
    """Write a measurement and its report; the folder appears with everything in it, or not at all.

    Raises InputError if something else stands there, or if it cannot be written.
    """
    check_free(path, overwrite=overwrite)
    beside = path.with_name(f".{path.name}.writing")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        (beside / "flows").mkdir(parents=True)
        for place, flow in enumerate(measurement.flows):
            write(flow, beside / "flows" / f"{place:03d}-{re.sub(r'[^A-Za-z0-9=.+_-]+', '-', flow.layer)}.npz")
        write_json(replace(measurement, flows=()), beside / NAME)
        report(measurement, beside / "report.html")
        if path.exists():
            shutil.rmtree(path)
        os.replace(beside, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); choose another --out.") from error
    finally:
        with suppress(OSError):
            shutil.rmtree(beside, ignore_errors=True)


def read_measurement(path: Path) -> Measurement:
    """Read what `keep` wrote.

    Raises InputError if it is absent or damaged.
    """
    place = path / NAME
    found = read_json(Measurement, place, absent="is this the folder of a measurement?", again="measure again")
    flows = tuple(read(FlowRecord, file) for file in sorted((path / "flows").glob("*.npz")))
    if not flows:
        raise InputError(f"{path}: holds no flow record; measure again.")
    return replace(found, flows=flows)


def read_records(path: Path) -> Study | Measurement:
    """What a folder holds: a measurement, else a study.

    Raises InputError if it is neither, or damaged.
    """
    return read_measurement(path) if (path / NAME).is_file() else Folder(path).read_study()

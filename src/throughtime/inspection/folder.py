"""A measurement's folder: written whole or not at all, and read back into records. No torch.

measurement.json   what was measured, on what, how, and what was left out
flows/*.npz        a flow record for each layer and direction, in the model's order
report.html
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from throughtime.disk import LOCK, lock, make_folder, replace_folder, restore
from throughtime.errors import InputError
from throughtime.records import FlowRecord, Measurement, Study, read, read_json, write, write_json
from throughtime.study.folder import REPORT, Folder, refuse_strange
from throughtime.view import report

NAME = "measurement.json"
_OURS = rf"{re.escape(NAME)}|{re.escape(REPORT)}|{re.escape(LOCK)}|flows/(|\d{{3,}}-[^/]*\.npz)"  # by path; see `keep`


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raise InputError if a measurement may not, or cannot, be kept at `path`."""
    restore(path)
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        why = "may not be written to" if above.is_dir() else "is no folder"
        raise InputError(f"{path}: cannot be written, as {above} {why}; choose another --out.")
    if not path.exists() or (path.is_dir() and not any(entry.name != LOCK for entry in path.iterdir())):
        return
    if not (path / NAME).is_file():
        raise InputError(f"{path} is not the folder of a measurement, so it is not replaced; choose another --out.")
    if not overwrite:
        raise InputError(f"{path} exists already; choose another --out, or replace it with --overwrite.")
    refuse_strange(path, _OURS, "measurement")


def keep(measurement: Measurement, path: Path, *, overwrite: bool = False) -> None:
    """Write a measurement and its report; the folder appears with everything in it, or not at all.

    Raises InputError if something else stands there, or if it cannot be written; TrainingError if another process
    writes there.
    """
    place = Path(os.path.realpath(path))  # not a link that leads there
    try:
        with ExitStack() as held:
            check_free(path, overwrite=overwrite)  # before a lock is left in a folder of somebody else's
            if place.is_dir():
                held.callback(lock(place).release)
                check_free(path, overwrite=overwrite)  # another process may have been quicker
            replace_folder(place, lambda new: _fill(new, measurement)).release()
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); choose another --out.") from error


def _fill(folder: Path, measurement: Measurement) -> None:
    make_folder(folder / "flows")
    for place, flow in enumerate(measurement.flows):
        write(flow, folder / "flows" / f"{place:03d}-{re.sub(r'[^A-Za-z0-9=.+_-]+', '-', flow.layer)}.npz")
    write_json(replace(measurement, flows=()), folder / NAME)
    report(measurement, folder / REPORT)


def read_measurement(path: Path) -> Measurement:
    """Read what `keep` wrote.

    Raises InputError if it is absent or damaged.
    """
    restore(path)
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
    restore(path)
    return read_measurement(path) if (path / NAME).is_file() else Folder(path).read_study()

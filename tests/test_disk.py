"""Files that are whole or not there."""

import os

import pytest

from throughtime.disk import write_whole
from throughtime.errors import InputError


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    write_whole(file, b"old")

    def full(*_):
        assert file.read_bytes() == b"old"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"a\.json: cannot be written \(No space left on device\); make room"):
        write_whole(file, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"], "nothing half-written stays"
    monkeypatch.undo()
    write_whole(file, b"new")
    assert file.read_bytes() == b"new"


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="cannot be written"):
        write_whole(tmp_path / "file" / "a.json", b"")

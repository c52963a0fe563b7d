"""Files that cannot be read, and tables that are not what their ending says: one clear message each."""

import gzip
import re

import pytest

import throughtime as tt
from tests.data.files import reviews, write, write_table
from throughtime.errors import InputError

CSV = reviews().write_csv().encode()


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("r.csv", b"", r"r.csv: the file is empty"),
        ("r.csv.gz", b"", r"r.csv.gz: the file is empty"),
        ("r.txt", b"", r"r.txt: the file is empty"),
        ("r.npz", b"", r"r.npz: the file is empty"),
        ("r.parquet", b"", r"r.parquet: the file is empty"),
        ("r.csv", b"\n\n \n", r"r.csv, row 1: the row is blank"),
        ("r.csv", b"\n\n\n", r"r.csv: the file holds only blank lines"),
        ("r.csv", b"review,sentiment\n", r"r.csv: there is a header but no row under it"),
        ("r.csv", CSV[:100] + b"\xe9" + CSV[100:], r"r.csv, row 3: byte 100 \(0xe9\) is not UTF-8; .*iconv"),
        ("r.csv", b"\xef\xbb\xbf" + CSV[:100] + b"\xe9", r"r.csv, row 3: byte 103 \(0xe9\)"),
        ("r.txt", b"ab\xff\xfe", r"r.txt, row 1: byte 2 \(0xff\)"),
        ("r.jsonl", b'{"a": "\xc3"}', r"r.jsonl, row 1: byte 7"),
        ("r.csv", "review".encode("utf-16"), r"r.csv: this looks like UTF-16"),
        (
            "r.csv",
            CSV + b"film,good\n" * 900 + b"film,good,more,cells\n",
            r"r.csv, row 962: 4 cells, where row 1 has 2",
        ),
        ("r.csv", CSV + b'"it never ends,good\nand on,bad\n', r"r.csv, row 62: a quote is not closed"),
        ("r.csv", CSV + CSV, r"r.csv, row 62: the header stands here again"),
        ("r.csv", CSV.replace(b"sentiment", b"review"), r'r.csv, row 1: two columns are called "review"'),
        ("r.jsonl", b'{"a": 1}\n{"a": \n', r"r.jsonl, row 2: not JSON"),
        ("r.jsonl", b'{"a": 1}\n[1]\n', r"r.jsonl, row 2: not a JSON object"),
        ("r.jsonl", b'{"a": 1}\n\n{"a": 2}\n', r"r.jsonl, row 2: the line is blank"),
        ("r.jsonl", b"\n", r"r.jsonl: the file holds only blank lines"),
        ("r.parquet", b"PAR1 and then nothing", r"r.parquet: this Parquet file is damaged"),
        ("r.parquet", CSV, r"r.parquet: this Parquet file is damaged"),
        ("r.ts", b"@data", r"r.ts: no series stands under @data"),
        ("r.zip", b"PK", r"r.zip: this zip file cannot be read .*; unpack or fetch it again"),
        ("r.7z", b"7z", r"r.7z: files ending in .7z are not read; unpack or convert"),
        ("r.gz", gzip.compress(b"x"), r"r.gz: files without an ending are not read"),
    ],
)
def test_one_message(tmp_path, name, content, match):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=match) as caught:
        tt.data.load(path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_a_damaged_gzip_file(tmp_path):
    whole = gzip.compress(CSV)
    for data in (whole[:-20], whole[:30] + b"####" + whole[34:], CSV, whole[:-8] + bytes(8)):
        (tmp_path / "r.csv.gz").write_bytes(data)
        with pytest.raises(InputError, match=r"r.csv.gz: this gzip file is damaged"):
            tt.data.load(tmp_path / "r.csv.gz")


def test_no_file(tmp_path):
    with pytest.raises(InputError, match=re.escape(f"{tmp_path}/none.csv: no such file; check the path.")):
        tt.data.load(tmp_path / "none.csv")
    with pytest.raises(InputError, match="this is a folder; name one file in it"):
        tt.data.load(tmp_path)
    with pytest.raises(InputError, match='"addign" is no file, and no name known here'):
        tt.data.load("addign")
    assert tt.data.known() == ("digits", "adding", "copy", "order", "jane")


def test_a_file_may_bear_the_name_of_a_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "copy").write_text("text")
    assert tt.data.load("copy", samples=10).card.step == "symbol"
    with pytest.raises(InputError, match="copy: files without an ending are not read"):
        tt.data.load("./copy")


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    data = tt.data.load(write(tmp_path / "r.csv", b"\xef\xbb\xbf" + CSV), text="review")
    assert data.card.labels == ("bad", "good")


def test_a_text_may_be_given_as_a_path_or_its_name(tmp_path):
    path = write_table(reviews(), tmp_path / "r.csv")
    assert tt.data.load(str(path)).card == tt.data.load(path).card


def test_nested_values_are_no_cells(tmp_path):
    frame = "".join(f'{{"t": "a fine film {i}", "y": {str(i % 2 == 0).lower()}, "z": [1, {{}}]}}\n' for i in range(20))
    data = tt.data.load(write(tmp_path / "r.jsonl", frame))
    assert data.card.labels == ("false", "true")

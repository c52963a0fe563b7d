"""Small files as people have them: each is read right, or ends in one question; none is read wrongly in silence."""

import gzip
import io
import json
import zipfile

import polars as pl
import pytest

import throughtime as tt
from throughtime.errors import InputError

DAYS = [f"{month:02d}-{day:02d}" for month in (1, 2) for day in range(1, 29)]
SQUARES = [k * k for k in range(len(DAYS))]


def dated(form, header="date,a"):
    """A row a day, the newest first, each date written by `form`."""
    rows = []
    for k, each in enumerate(DAYS):
        m, d = each.split("-")
        name = ("Jan", "Feb")[int(m) - 1]
        written = form.format(d=d, m=m, name=name, full=name + ("uary" if name == "Jan" else "ruary"))
        rows.append(f'"{written}",{SQUARES[k]}')
    return header + "\n" + "\n".join(reversed(rows)) + "\n"


READ_IN_ORDER = [
    "2021-{m}-{d}",
    "2021/{m}/{d}",
    "2021.{m}.{d}",
    "2021{m}{d}",
    "2021-{m}-{d}T00:00:00+00:00",
    "2021-{m}-{d}T00:00:00+01:00",
    "2021-{m}-{d}T00:00:00+0530",
    "2021-{m}-{d}T00:00:00.250Z",
    "2021-{m}-{d} 00:00:00 UTC",
    "2021-{m}-{d} 00:00:00-08:00",
    "2021-{m}-{d} 06:30",
    "2021/{m}/{d} 06:30:15",
    "{m}/{d}/2021",
    "{d}/{m}/2021",
    "{d}-{m}-2021",
    "{d}-{m}-2021 12:00",
    "{m}/{d}/2021 01:30 PM",
    "{m}/{d}/2021 12:00:00 AM",
    "{d}.{m}.2021",
    "{d}.{m}.2021 08:15",
    "{d}.{m}.2021 08:15:30",
    "{name} {d}, 2021",
    "{full} {d}, 2021",
    "{d} {name} 2021",
    "{d}-{name}-2021",
    "Mon, {d} {name} 2021 10:00:00 GMT",
]


def values(data):
    """What the training split reads, in its order, as one list a column."""
    return data.train.lanes(1).batch([0]).x[:, 0].T.tolist()


def load(tmp_path, text, name="s.csv", **options):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return tt.data.load(path, **options)


@pytest.mark.parametrize("form", READ_IN_ORDER)
def test_dates_are_read_and_the_earliest_rows_train(tmp_path, form):
    data = load(tmp_path, dated(form), standardise=False)
    assert values(data)[0][:30] == SQUARES[:30]
    assert any("rows in the order of" in note for note in data.card.notes)


def test_mixed_offsets_are_one_time(tmp_path):
    rows = [f"2021-01-{d:02d}T0{2 if d % 2 else 0}:00:00+0{2 if d % 2 else 0}:00,{d * d}" for d in range(1, 29)]
    data = load(tmp_path, "t,a\n" + "\n".join(rows[::-1]), standardise=False)
    assert values(data)[0][:10] == [d * d for d in range(1, 11)]
    assert not any("jumps" in note for note in data.card.notes)


@pytest.mark.parametrize(("unit", "size"), [("seconds", 1), ("milliseconds", 1000)])
def test_epochs_are_time_and_no_input(tmp_path, unit, size):
    rows = [f"{(1_600_000_000 + 3600 * k) * size},{k * k}" for k in range(56)]
    data = load(tmp_path, "timestamp,a\n" + "\n".join(rows[::-1]), standardise=False)
    assert values(data) == [SQUARES[: len(values(data)[0])]]
    assert any(f"read as {unit} since 1970" in note for note in data.card.notes)


def test_date_and_time_of_day_are_one_clock(tmp_path):
    rows = [f"{1 + k // 4:02d}.01.2021,{6 * (k % 4):02d}:00,{k * k}" for k in range(80)]
    data = load(tmp_path, "Date,Time,a\n" + "\n".join(rows[::-1]), standardise=False)
    assert values(data)[0][:50] == [k * k for k in range(50)]


BOTH_WAYS = "date,a\n" + "\n".join(f"{1 + k % 12:02d}/{1 + k // 12:02d}/2021,{k * k}" for k in range(60))
ASKED_DATES = {
    "both ways": (BOTH_WAYS, "--date-format"),
    "two digits": (dated("{d}/{m}/21"), "--date-format"),
    "called a date": ("date,a\n" + "\n".join(f"week {k},{k * k}" for k in range(40)), "--date-format"),
    "one empty": (dated("2021-{m}-{d}").replace("2021-01-09", ""), "no date"),
    "one damaged": (dated("2021-{m}-{d}").replace("2021-01-09", "2021-13-09"), "no date"),
    "both kinds": (dated("{d}/{m}/2021").replace("09/01/2021", "01/29/2021"), "--date-format"),
}  # fmt: skip


@pytest.mark.parametrize("case", ASKED_DATES)
def test_dates_that_cannot_be_told_are_asked_about(tmp_path, case):
    text, option = ASKED_DATES[case]
    with pytest.raises(InputError, match=option):
        load(tmp_path, text)


def test_a_given_date_format_answers_the_question(tmp_path):
    by_month = load(tmp_path, BOTH_WAYS, date_format="%d/%m/%Y", standardise=False)
    assert values(by_month)[0][:40] == [k * k for k in range(40)]
    by_day = load(tmp_path, BOTH_WAYS, date_format="%m/%d/%Y", standardise=False)
    assert values(by_day)[0][:3] == [0, 144, 576]


def series(cells, head="a"):
    return head + "\n" + "\n".join(cells) + "\n"


NUMBERS = {
    "decimal comma": (series([f"{k},{k % 10}5;{k}" for k in range(0, 300, 7)], "a;b"), 0, [0.05, 7.75, 14.45]),
    "thousands comma": (series([f'"1,{k:03d}"' if k % 3 else '"1,234.5"' for k in range(1, 60)]), 0, [1001, 1002]),
    "German thousands": (series([f"1.{k * k % 999:03d},5;3" for k in range(1, 60)], "a;b"), 0, [1001.5, 1004.5]),
    "spaces": (series([f"1 {k * k:03d}" for k in range(1, 31)]), 0, [1001, 1004]),
    "booleans": (series([f"{('True', 'False')[k % 2]},{k * k}" for k in range(40)], "a,b"), 0, [1, 0, 1]),
    "three decimals": (series([f"1.{k * k % 1000:03d}" for k in range(1, 60)]), 0, [1.001, 1.004]),
    "years as names": (series([f"{k},{k * k},3,{k % 5}" for k in range(5, 60)], "2015,2016,2017,2018"), 0, [25, 36]),
    "no header": (series([f"{k * k},{k % 5}" for k in range(1, 60)], "0,0"), 0, [0, 1, 4]),
    "sep=": ("sep=;\na;b\n" + "\n".join(f"{k * k};{k % 5}" for k in range(60)), 0, [0, 1, 4]),
    "blank end": (series([f"{k * k},{k % 5}" for k in range(60)], "a,b") + "\n\n", 0, [0, 1, 4]),
}  # fmt: skip


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_are_read_as_written(tmp_path, case):
    text, column, first = NUMBERS[case]
    assert values(load(tmp_path, text, standardise=False))[column][: len(first)] == pytest.approx(first)


ASKED = {
    "German or English": (series([f"{'1.293' if k % 2 else 885 - k}" for k in range(40)]), "--decimal"),
    "comma of three": (series([f'"1,{k:03d}"' for k in range(100, 140)]), "--decimal"),
    "percent": (series([f"{k * k}%,{k}" for k in range(1, 41, 1)], "a,b"), "--drop"),
    "wind": (series([f"{('NW', 'SE')[k % 2]},{k * k}" for k in range(40)], "wind,a"), "--drop"),
    "DNA": (series([f"{'ACGT' * (k + 1)},{k % 2}" for k in range(40)], "text,label"), '--text "text" --label "label"'),
    "one word": (series([f"word{k},{k % 3}" for k in range(40)], "text,label"), '--text "text" --label "label"'),
    "emoji": (series([f"{'😀' * (k + 1)},{k % 2}" for k in range(40)], "text,label"), '--text "text" --label "label"'),
    "short texts": (series([f"{'gb'[k % 2]} {k},{'pn'[k % 2]}" for k in range(40)], "text,label"), "--text"),
    "counting rows": (series([f"{k},{k + 1},{k + 2}" for k in range(2, 40)], "1,2,3"), "--no-header"),
    "constant": (series(["5"] * 40), "nothing to predict"),
}  # fmt: skip


@pytest.mark.parametrize("case", ASKED)
def test_what_is_not_plain_is_asked_about(tmp_path, case):
    text, option = ASKED[case]
    with pytest.raises(InputError, match=option):
        load(tmp_path, text)


def test_a_parquet_list_column_is_asked_about(tmp_path):
    pl.DataFrame({"words": [["a", "b"]] * 40, "label": [k % 2 for k in range(40)]}).write_parquet(
        tmp_path / "s.parquet"
    )
    with pytest.raises(InputError, match="lists or records"):
        tt.data.load(tmp_path / "s.parquet")


def zipped(name, text, more=()):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for each in (name, *more):
            archive.writestr(each, text)
    return held.getvalue()


TABLE = series([f"{k * k},{k % 5}" for k in range(60)], "a,b")
RECORDS = [{"a": k * k, "b": k % 5} for k in range(60)]
PACKED = {
    "s.csv.gz": gzip.compress(TABLE.encode()),
    "s.zip": zipped("s.csv", TABLE),
    "array.json": json.dumps(RECORDS).encode(),
    "columns.json": json.dumps({n: [row[n] for row in RECORDS] for n in "ab"}).encode(),
    "s.jsonl": "\n".join(map(json.dumps, RECORDS)).encode(),
    "s.tsv": TABLE.replace(",", "\t").encode(),
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_and_nested_files_are_the_same_table(tmp_path, name):
    assert values(load(tmp_path, PACKED[name], name, standardise=False))[0][:30] == [k * k for k in range(30)]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("two.zip", zipped("a.csv", TABLE, ("b.csv",)), "holds 2 files"),
        ("broken.zip", b"PK\x03\x04 no", "cannot be read"),
        ("s.ts", b"@data\n1,2:a\n", "does not say whether the series are labelled"),
        ("s.arff", b"@data\n1,2,a\n", "row 2: 3 values, where 0 attributes"),
        ("s.xls", b"PK", "read_excel"),
        ("matrix.json", b"[[1, 2], [3, 4]]", "jq"),
    ],
)
def test_formats_that_are_not_read_say_what_to_type(tmp_path, name, content, says):
    with pytest.raises(InputError, match=says):
        load(tmp_path, content, name)


def test_labels_that_differ_in_case_are_one_and_said(tmp_path):
    spelled = ("Positive", "negative", "positive", "NEGATIVE", "POSITIVE", "negative")
    text = series([f"a fine long text of number {k},{spelled[k % 6]}" for k in range(60)], "text,label")
    data = load(tmp_path, text)
    assert data.card.labels == ("POSITIVE", "negative")
    assert any("differ only in case" in note for note in data.card.notes)


def test_header_that_is_also_a_label(tmp_path):
    text = series([f"some longer comment number {k},{('toxic', 'fine')[k % 2]}" for k in range(40)], "comment,toxic")
    data = load(tmp_path, text)
    assert (data.card.labels, sum(data.card.sizes.values())) == (("fine", "toxic"), 40)


def test_na_is_no_class(tmp_path):
    text = series([f"a text of so many words {k},{('yes', 'no', 'NA')[k % 3]}" for k in range(60)], "text,label")
    with pytest.raises(InputError, match='row 4: label "label" is empty'):
        load(tmp_path, text)
    assert load(tmp_path, text, skip_bad_rows=True).card.labels == ("no", "yes")


def test_a_test_split_of_one_label_is_said_beside_the_guess(tmp_path):
    text = series(
        [f"a text of so many words {k},{'rare' if k in (5, 50) else 'usual'}" for k in range(100)], "text,label"
    )
    assert "cannot tell" in load(tmp_path, text).card.baseline_is
    even = series([f"a text of so many words {k},{k % 2}" for k in range(100)], "text,label")
    assert "cannot tell" not in load(tmp_path, even).card.baseline_is


def test_sentinels_and_huge_values_are_mentioned(tmp_path):
    notes = load(tmp_path, series([f"{-200 if k % 9 == 4 else k % 7}" for k in range(60)])).card.notes
    assert any("-200 in 7 rows" in note for note in notes)
    assert any(
        "1e+17" in n for n in load(tmp_path, series([f"{k}e17" if k < 2 else str(k) for k in range(60)])).card.notes
    )
    assert not any("far from" in n for n in load(tmp_path, series([str(-k) for k in range(150, 250)])).card.notes)

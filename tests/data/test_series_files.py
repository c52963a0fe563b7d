"""Files of labelled series (`.ts`, `.arff`, a series a row), labels at each step, and signs of several series."""

import io
import sys
import types
import zipfile

import numpy as np
import polars as pl
import pytest

import throughtime as tt
from throughtime.errors import InputError

KEYS = [(k % 2, k) for k in range(40)]  # label and number of a series


def load(tmp_path, name, content, **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tt.data.load(path, **({"standardise": False} | options))


def samples(data):
    """Every sample of all splits: its steps as tuples, and its label."""
    found = []
    for split in (data.train, data.valid, data.test):
        batch = split.batch(range(len(split)))
        for b, length in enumerate(batch.lengths.tolist()):
            steps = tuple(tuple(step) for step in batch.x[:length, b].tolist())
            found.append((steps, data.card.labels[int(batch.y[b])]))
    return sorted(found)


def series(k, size=4):
    return [float(k * 10 + t) for t in range(size)]


def joined(values):
    return ",".join(map(str, values))


TS = "# made here\n@problemName p\n@timeStamps false\n@classLabel true up down\n@data\n"
ARFF = "@relation p\n@attribute t0 numeric\n@attribute 't 1' real\n@attribute t2 numeric\n@attribute t3 numeric\n"
RELATIONAL = "@relation p\n@attribute bag relational\n@attribute t0 numeric\n@end bag\n@attribute c {up,down}\n@data\n"
NAMES = ("up", "down")
ONE_VALUE = {
    "s.ts": TS + "\n".join(f"{joined(series(k))}:{NAMES[c]}" for c, k in KEYS),
    "s.arff": ARFF
    + "@attribute target {up,down}\n% a comment\n@data\n"
    + "\n".join(f"{joined(series(k))},{NAMES[c]}" for c, k in KEYS),
}


@pytest.mark.parametrize("name", ONE_VALUE)
def test_series_of_one_value_are_read(tmp_path, name):
    data = load(tmp_path, name, ONE_VALUE[name])
    assert samples(data) == sorted((tuple((v,) for v in series(k)), NAMES[c]) for c, k in KEYS)
    assert data.card.kind == "classification"


def test_series_of_two_values_and_unequal_lengths_are_read(tmp_path):
    def pair(k):
        return series(k, 2 + k % 3), [-v for v in series(k, 2 + k % 3)]

    expected = sorted((tuple(zip(*pair(k), strict=True)), NAMES[c]) for c, k in KEYS)
    ts = TS + "\n".join(f"{joined(pair(k)[0])}:{joined(pair(k)[1])}:{NAMES[c]}" for c, k in KEYS)
    assert samples(load(tmp_path, "s.ts", ts)) == expected
    arff = RELATIONAL + "\n".join(f"'{joined(pair(k)[0])}\\n{joined(pair(k)[1])}',{NAMES[c]}" for c, k in KEYS)
    assert samples(load(tmp_path, "s.arff", arff)) == expected
    filled = ts.replace(":up", ",?:up").replace(":-", ",?:-")  # short series filled up with what is missing
    with_end = "\n".join(
        line if ":down" not in line else line.replace(":down", ",?:down") for line in filled.split("\n")
    )
    assert samples(load(tmp_path, "s.ts", with_end)) == expected


def test_a_target_of_series_is_predicted(tmp_path):
    text = "@targetLabel true\n@data\n" + "\n".join(f"{joined(series(k))}:{k / 4}" for _, k in KEYS)
    data = load(tmp_path, "s.ts", text)
    assert data.card.kind == "regression"
    assert sorted(data.train.batch(range(32)).y[:, 0].tolist())[0] >= 0


ONE_SENTENCE = {
    "gap": ("s.ts", TS + "1,?,3:up\n", "row 6: step 1 has a missing value"),
    "word": ("s.ts", TS + "1,2,3:up\n1,x,3:up\n", 'row 7: "x" is no number'),
    "stamps": ("s.ts", TS.replace("timeStamps false", "timeStamps true") + "(0,1):up", "time stamps are not read"),
    "stamped": ("s.ts", TS + "(0,1),(1,2):up", "row 6: .* time stamp"),
    "unknown label": ("s.ts", TS + "1,2:left\n", 'row 6: the label "left" is not one of those'),
    "dimensions": ("s.ts", TS + "1,2:3,4:up\n1,2:up\n", "row 7: 1 dimensions, where the first series has 2"),
    "steps": ("s.ts", TS + "1,2:3,4,5:up\n", "row 6: its dimensions have 2, 3 steps"),
    "too few": ("s.arff", ONE_VALUE["s.arff"] + "\n1,2,up\n", "row 49: 3 values, where 5 attributes"),
    "sparse": ("s.arff", ONE_VALUE["s.arff"] + "\n{0 1}\n", "row 49: .*sparse"),
    "string": ("s.arff", "@relation r\n@attribute a string\n@data\n", 'row 2: .* kind "string" is not read'),
    "empty": ("s.arff", ARFF + "@data\n", "no series stands under @data"),
}  # fmt: skip


@pytest.mark.parametrize("case", ONE_SENTENCE)
def test_series_that_are_not_understood_are_told_with_their_row(tmp_path, case):
    name, text, says = ONE_SENTENCE[case]
    with pytest.raises(InputError, match=says) as caught:
        load(tmp_path, name, text)
    assert "\n" not in str(caught.value)


# -- a series a row

WIDE = {(c, k): [float((k + 1) * t % 7) + t / 4 for t in range(12)] for c, k in KEYS}
EXPECTED = sorted((tuple((v,) for v in row), str(c)) for (c, k), row in WIDE.items())
FIRST = [f"{c}\t" + "\t".join(map(str, row)) for (c, k), row in WIDE.items()]
LAST = [joined(row) + f",{c}.000e+00" for (c, k), row in WIDE.items()]
HEADED = ["label," + ",".join(f"t{t}" for t in range(12)), *(line.replace("\t", ",") for line in FIRST)]


@pytest.mark.parametrize(
    ("name", "lines", "label"),
    [
        ("s.tsv", FIRST, "column 1"),
        ("s.csv", LAST, "column 13"),
        ("s.csv", HEADED, "label"),
        ("s.txt", [line.replace("\t", "  ") for line in FIRST], "column 1"),
    ],
)
def test_series_in_rows_are_asked_about_and_read(tmp_path, name, lines, label):
    with pytest.raises(InputError, match=f'a whole series with its label in "{label}", .* Pass --label'):
        load(tmp_path, name, "\n".join(lines))
    assert samples(load(tmp_path, name, "\n".join(lines), label=label)) == EXPECTED


@pytest.mark.parametrize("name", ["Wide_TRAIN.tsv", "Wide_TEST.txt"])
def test_the_archives_own_names_answer_the_question(tmp_path, name):
    data = load(tmp_path, name, "\n".join(FIRST))
    assert samples(data) == EXPECTED
    assert any("each row is a series of 12 steps" in note for note in data.card.notes)


def test_missing_ends_of_rows_make_them_shorter(tmp_path):
    lines = [
        line if at % 2 else "\t".join([*line.split("\t")[:-3], "NaN", "NaN", "NaN"]) for at, line in enumerate(FIRST)
    ]
    data = load(tmp_path, "S_TRAIN.tsv", "\n".join(lines))
    assert data.card.lengths == (9, 10, 12)
    lines[4] = lines[4].replace("\t" + lines[4].split("\t")[3], "\tNaN", 1)
    with pytest.raises(InputError, match=r'row 5: "column \d+" is empty'):
        load(tmp_path, "S_TRAIN.tsv", "\n".join(lines))


def test_a_wide_forecast_is_not_taken_for_labelled_series(tmp_path):
    rows = [joined([k * 0.5, *((k * n) % 11 + 0.25 for n in range(9))]) for k in range(60)]
    assert load(tmp_path, "s.csv", "\n".join(rows)).card.kind == "next"
    data = load(tmp_path, "s.csv", "\n".join(LAST), target=["column 2"], series="")
    assert (data.card.kind, data.card.labels) == ("next", ("column 2",))


def test_numbers_in_a_text_file_are_no_language(tmp_path):
    with pytest.raises(InputError, match=r"every line holds numbers; .* call the file \.csv"):
        load(tmp_path, "s.txt", "\n".join(f"{k} {k * k}" for k in range(60)), standardise=None)


# -- answers of arrays


def arrays(tmp_path, y, steps=6, lengths=None):
    x = np.arange(len(y) * steps * 2, dtype=np.float64).reshape(len(y), steps, 2)
    more = {} if lengths is None else {"lengths": lengths}
    np.savez(tmp_path / "a.npz", x=x, y=y, **more)
    return tt.data.load(tmp_path / "a.npz", standardise=False)


@pytest.mark.parametrize("kind", [np.int64, np.float32, bool])
def test_one_hot_answers_are_classes(tmp_path, kind):
    which = np.arange(40) % 3
    plain, hot = arrays(tmp_path, which), arrays(tmp_path, np.eye(3)[which].astype(kind))
    assert (hot.card.kind, hot.card.labels) == ("classification", ("0", "1", "2"))
    assert hot.train.batch(range(20)).y.tolist() == plain.train.batch(range(20)).y.tolist()
    assert any("one-hot (40, 3)" in note for note in hot.card.notes)
    nearly = np.eye(3)[which]
    nearly[0, 0] = 0.5
    assert arrays(tmp_path, nearly).card.kind == "regression"


def test_one_hot_or_labels_at_each_step_is_asked(tmp_path):
    with pytest.raises(InputError, match="could be one-hot classes or a label at each of 6 steps"):
        arrays(tmp_path, np.eye(6, dtype=int)[np.arange(40) % 6])


@pytest.mark.parametrize("form", ["(N, T)", "(N, T, 1)", "one-hot", "names"])
def test_labels_at_each_step_are_answers_of_the_steps(tmp_path, form):
    y = np.arange(40)[:, None] * np.arange(6) % 3
    given = {"(N, T)": y, "(N, T, 1)": y[..., None], "one-hot": np.eye(3)[y], "names": np.array(["a", "b", "c"])[y]}
    data = arrays(tmp_path, given[form], lengths=np.full(40, 6) - np.arange(40) % 2)
    assert data.answers_each_step
    assert (data.card.kind, data.card.metric, data.card.outputs) == ("next", "nats", 3)
    batch = data.train.batch(range(len(data.train)))
    assert batch.each_step
    for b, length in enumerate(batch.lengths.tolist()):
        sequence = int(batch.x[0, b, 0]) // 12
        assert length == 6 - sequence % 2
        assert batch.y[:length, b].tolist() == y[sequence, :length].tolist()
    taught = np.bincount(np.concatenate([batch.y[:n, b] for b, n in enumerate(batch.lengths)]), minlength=3) + 1
    test = data.test.batch(range(len(data.test)))
    asked = np.concatenate([test.y[:n, b] for b, n in enumerate(test.lengths)])
    assert data.card.baseline == pytest.approx(float(-np.log(taught / taught.sum())[asked].mean()))


def test_steps_marked_as_not_counted_are_not(tmp_path):
    y = np.arange(240).reshape(40, 6) % 2
    y[:, 0] = -100
    batch = arrays(tmp_path, y).train.batch([0, 1])
    assert batch.counted is not None
    assert batch.counted.tolist() == [[False] * 2] + [[True] * 2] * 5


def test_numbers_at_each_step_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(InputError, match="of each step whole numbers or names are read"):
        arrays(tmp_path, np.random.default_rng(0).normal(size=(40, 6)))


# -- the first row


@pytest.mark.parametrize(("header", "first"), [(True, [1.0, 4.0]), (False, [7.0, 1.0])])
def test_what_the_first_row_is_can_be_said(tmp_path, header, first):
    text = "7,3\n" + "\n".join(f"{k * k},{k * 5 % 7}" for k in range(1, 60))
    data = load(tmp_path, "s.csv", text, header=header)
    assert data.train.lanes(1).batch([0]).x[:2, 0, 0].tolist() == first
    assert data.card.labels == (("7", "3") if header else ("column 1", "column 2"))


# -- names by character, many labels


def test_names_are_read_by_character(tmp_path):
    names = ["Müller", "O'Hara", "Straße", "Li"]
    text = "name,language\n" + "\n".join(f"{names[k % 4]}{'abc'[k % 3]},{'xy'[k % 2]}" for k in range(60))
    data = load(tmp_path, "n.csv", text, text="name", label="language", standardise=None, minimum_count=1)
    assert data.card.step == "character"
    assert set(data.vocabulary[2:]) == set("MüllerO'HaraStraßeLiabc")
    spelled = {"".join(data.train.words(at)) for at in range(len(data.train))}
    assert spelled <= {name + end for name in names for end in "abc"}
    assert any("read character by character" in note for note in data.card.notes)


def test_short_texts_stay_words(tmp_path):
    text = "text,label\n" + "\n".join(f"{['good', 'bad', 'so'][k % 3]} film,{k % 2}" for k in range(60))
    assert load(tmp_path, "n.csv", text, text="text", label="label", standardise=None).card.step == "word"


# -- several series in one table

US = [(f"{1 + k // 28:02d}/{1 + k % 28:02d}/2021", k * k) for k in range(56)]
SEVERAL = {
    "US dates": "store,date,sales\n" + "\n".join(f"{s},{d},{v * s}" for s in (1, 2, 3) for d, v in US),
    "US dates in turn": "store,date,sales\n" + "\n".join(f"{s},{d},{v * s}" for d, v in US for s in (1, 2, 3)),
    "blocks": "g,sales\n" + "\n".join(f"{s},{v * s}" for s in (1, 2, 3) for _, v in US),
    "turns": "g,sales\n" + "\n".join(f"{s},{v * s}" for _, v in US for s in (1, 2, 3)),
    "mixed": "StoreId,sales\n" + "\n".join(f"{1 + k * k % 3},{k * 7 % 31}" for k in range(80)),
    "counter": "t,sales\n" + "\n".join(f"{t},{v * s}" for s in (1, 2) for t, (_, v) in enumerate(US)),
}


@pytest.mark.parametrize("case", SEVERAL)
def test_several_series_are_asked_about(tmp_path, case):
    with pytest.raises(InputError, match="--series"):
        load(tmp_path, "s.csv", SEVERAL[case])


def test_named_stores_never_share_a_window(tmp_path):
    for case in ("US dates", "US dates in turn"):
        data = load(tmp_path, "s.csv", SEVERAL[case], series="store")
        batch = data.train.batch(range(len(data.train)))
        for b, length in enumerate(batch.lengths.tolist()):
            seen = batch.x[:length, b, 0].double()
            roots = {s: (seen / s).sqrt() for s in (1, 2, 3)}
            assert any((r == r.round()).all() and (r.diff() == 1).all() for r in roots.values())


def test_one_series_is_not_asked_about(tmp_path):
    hours = "hour,a\n" + "\n".join(f"{k % 24},{k * k % 131}" for k in range(240))
    load(tmp_path, "s.csv", hours)
    years = "year,a\n" + "\n".join(f"{2000 + k // 12},{k * k}" for k in range(120))
    load(tmp_path, "s.csv", years)
    dated = "date,promo,a\n" + "\n".join(f"{d},{int(k > 20)},{v}" for k, (d, v) in enumerate(US))
    load(tmp_path, "s.csv", dated)
    load(tmp_path, "s.csv", SEVERAL["blocks"], series="")


def test_rows_without_a_date_or_a_number_are_skipped_where_asked(tmp_path):
    lines = [f"2021-{1 + k // 28:02d}-{1 + k % 28:02d},{k * k}" for k in range(56)]
    lines[8], lines[30] = ",64", lines[30].split(",")[0] + ",broken"
    text = "date,a\n" + "\n".join(lines)
    with pytest.raises(InputError, match=r'row 10: "date" says "", which is no date, .* --skip-bad-rows'):
        load(tmp_path, "s.csv", text)
    data = load(tmp_path, "s.csv", text, skip_bad_rows=True)
    read = [v for split in (data.train, data.valid, data.test) for v in split.lanes(1).batch([0]).x[:, 0, 0].tolist()]
    assert read[:40] == [k * k for k in range(56) if k not in (8, 30)][:40]
    assert any("2 rows that cannot be used skipped, as asked: row 10, 32" in note for note in data.card.notes)
    gap = text.replace(f"{40 * 40}", "")
    with pytest.raises(InputError, match='row 42: "a" has a gap'):
        load(tmp_path, "s.csv", gap, skip_bad_rows=True)


# -- Excel files and standard input


MAIN, OFFICE = "http://schemas.openxmlformats.org/", "officeDocument/2006/relationships"
RELATIONS = f'<Relationships xmlns="{MAIN}package/2006/relationships">{{}}</Relationships>'
RELATION = f'<Relationship Id="r{{}}" Type="{MAIN}{OFFICE}/{{}}" Target="{{}}"/>'
BOOK = f'<workbook xmlns="{MAIN}spreadsheetml/2006/main" xmlns:r="{MAIN}{OFFICE}"><sheets>{{}}</sheets></workbook>'
SHEET = f'<worksheet xmlns="{MAIN}spreadsheetml/2006/main"><sheetData>{{}}</sheetData></worksheet>'


def cell(value):
    if isinstance(value, str):
        return f'<c t="inlineStr"><is><t>{value}</t></is></c>'
    return f"<c><v>{value}</v></c>"


def workbook(**sheets):
    parts = {
        "_rels/.rels": RELATIONS.format(RELATION.format(0, "officeDocument", "xl/workbook.xml")),
        "xl/workbook.xml": BOOK.format(
            "".join(f'<sheet name="{name}" sheetId="{i}" r:id="r{i}"/>' for i, name in enumerate(sheets))
        ),
        "xl/_rels/workbook.xml.rels": RELATIONS.format(
            "".join(RELATION.format(i, "worksheet", f"worksheets/{i}.xml") for i in range(len(sheets)))
        ),
    }
    for i, rows in enumerate(sheets.values()):
        written = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
        parts[f"xl/worksheets/{i}.xml"] = SHEET.format(written)
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return held.getvalue()


ROWS = [["a", "b"], *([k * k, k % 5] for k in range(60))]


def test_the_one_sheet_of_an_excel_file_is_a_table(tmp_path):
    pytest.importorskip("fastexcel")
    data = load(tmp_path, "s.xlsx", workbook(first=ROWS))
    assert data.train.lanes(1).batch([0]).x[:30, 0, 0].tolist() == [k * k for k in range(30)]
    with pytest.raises(InputError, match=r'2 sheets with data \("first", "second"\)'):
        load(tmp_path, "s.xlsx", workbook(first=ROWS, second=ROWS))
    with pytest.raises(InputError, match=r"row 1: .* could name the columns or be data"):
        load(tmp_path, "s.xlsx", workbook(first=[["7", "2.5"], *ROWS[1:]]))
    with pytest.raises(InputError, match="this Excel file cannot be read"):
        load(tmp_path, "s.xlsx", b"PK")


def test_an_excel_file_without_the_library_names_the_extra(tmp_path, monkeypatch):
    def absent(*_args, **_options):
        raise ModuleNotFoundError("fastexcel")

    monkeypatch.setattr(pl, "read_excel", absent)
    with pytest.raises(InputError, match=r"pip install 'throughtime\[excel\]'"):
        load(tmp_path, "s.xlsx", workbook(first=ROWS))


def test_standard_input_is_a_table(monkeypatch):
    text = "a,b\n" + "\n".join(f"{k * k},{k % 5}" for k in range(60))
    piped = types.SimpleNamespace(buffer=io.BytesIO(text.encode()), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", piped)
    data = tt.data.load("-", standardise=False)
    assert data.card.name == "standard input"
    assert data.train.lanes(1).batch([0]).x[:30, 0, 0].tolist() == [k * k for k in range(30)]
    with pytest.raises(InputError, match="standard input: it is empty"):
        tt.data.load("-")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a,b\n1,2\n2,3\n3,4\n4,5\n", '"a", "b" only count the rows, one up each'),
        ("a,b\n" + "".join(f"{k},{k % 5}\n" for k in range(40)), ""),
        ("a\n" + "".join(f"{k + 0.5}\n" for k in range(40)), ""),
    ],
)
def test_columns_that_count_the_rows_are_left_out_or_asked_about(tmp_path, content: str, says: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    if not says:
        assert tt.data.load(path).card.kind == "next"
        return
    with pytest.raises(InputError, match=says):
        tt.data.load(path)

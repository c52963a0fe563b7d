"""Tables of numbers: order, gaps, standardisation and the obvious guess, each against a way of its own."""

import numpy as np
import polars as pl
import pytest
import torch

import throughtime as tt
from tests.data.files import walk, write, write_table
from throughtime.errors import InputError


def whole(split):
    """All rows a split reads, in order, (steps, I), and its answers."""
    batch = split.lanes(1).batch([0])
    return batch.x[:, 0].numpy(), batch.y[:, 0].numpy()


def frame(steps=200):
    return pl.DataFrame({"a": walk(steps), "b": 1000 + 50 * walk(steps, 1)})


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same(tmp_path, ending):
    data = tt.data.load(write_table(frame(), tmp_path / f"series{ending}"))
    x, y = whole(data.train)
    truth = frame().to_numpy()
    train = truth[:160]
    expected = (train - train.mean(0)) / train.std(0)
    assert np.allclose(x, expected[:-1], atol=1e-5)
    assert np.allclose(y, expected[1:], atol=1e-5)
    test = (truth[180:] - train.mean(0)) / train.std(0)
    assert np.allclose(whole(data.test)[0], test[:-1], atol=1e-5)
    persistence = np.square(test[1:] - test[:-1]).mean()
    assert data.card.baseline == pytest.approx(min(persistence, np.square(test[1:]).mean()), rel=1e-4)
    assert (data.card.kind, data.card.metric, data.card.step) == ("next", "mse", "row")
    assert (data.card.inputs, data.card.outputs, data.card.tokens) == (2, 2, False)
    assert data.continues
    assert data.answers_each_step


def test_the_mean_is_the_better_guess_of_noise(tmp_path):
    noise = np.random.default_rng(0).normal(size=500)
    data = tt.data.load(write_table(pl.DataFrame({"a": noise}), tmp_path / "s.csv"))
    assert "mean" in data.card.baseline_is
    assert data.card.baseline == pytest.approx(
        np.square((noise[451:] - noise[:400].mean()) / noise[:400].std()).mean(), rel=1e-4
    )


def test_rows_are_shown_as_they_were(tmp_path):
    rows = pl.DataFrame({"year": [2010] * 100, "a": [i / 4 for i in range(100)]})
    data = tt.data.load(write_table(rows, tmp_path / "s.csv"))
    assert data.train.words(0)[:3] == ("2010 0", "2010 0.25", "2010 0.5")
    assert any('never varies in training: "year"' in note for note in data.card.notes)


def test_targets(tmp_path):
    path = write_table(frame(), tmp_path / "s.csv")
    both, one = tt.data.load(path), tt.data.load(path, target="b")
    assert (one.card.inputs, one.card.outputs, one.card.labels) == (2, 1, ("b",))
    assert np.array_equal(whole(one.train)[1], whole(both.train)[1][:, 1:])
    assert tt.data.load(path, target=["b", "a"]).card.labels == ("b", "a")
    with pytest.raises(InputError, match=r'no column "c" \(asked for by --target\)'):
        tt.data.load(path, target="c")


def test_raw_values(tmp_path):
    x, _ = whole(tt.data.load(write_table(frame(), tmp_path / "s.csv"), standardise=False).train)
    assert np.allclose(x, frame().to_numpy()[:159].astype("f4"))


def test_time_orders_the_rows(tmp_path):
    dates = [f"20{y:02d}-{m:02d}" for y in range(10, 20) for m in range(1, 13)]
    rows = pl.DataFrame({"month": dates, "a": range(100, 220)})
    data = tt.data.load(
        write_table(rows.sample(fraction=1.0, shuffle=True, seed=1), tmp_path / "s.csv"), standardise=False
    )
    assert whole(data.train)[0][:, 0].tolist() == list(range(100, 195))
    assert any('rows in the order of "month", which is not the file\'s' in note for note in data.card.notes)
    rows = rows.with_columns(month=pl.Series(range(120))).reverse()
    data = tt.data.load(write_table(rows, tmp_path / "s.csv"), time="month", standardise=False)
    assert whole(data.train)[0][:, 0].tolist() == list(range(100, 195))


@pytest.mark.parametrize(
    "form", ["%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%Y%m%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S"]
)
def test_dates_in_many_forms(tmp_path, form):
    days = pl.date_range(pl.date(2020, 1, 1), pl.date(2020, 3, 1), eager=True).cast(pl.Datetime).dt.strftime(form)
    rows = pl.DataFrame({"when": days, "a": range(1, 62)}).with_columns(a=pl.col("a") ** 2).reverse()
    data = tt.data.load(write_table(rows, tmp_path / "s.csv"), standardise=False)
    assert data.card.inputs == 1
    assert whole(data.train)[0][:2, 0].tolist() == [1, 4]


def test_dates_of_a_parquet_file(tmp_path):
    days = pl.date_range(pl.date(2020, 1, 1), pl.date(2020, 3, 1), eager=True)
    rows = pl.DataFrame({"when": days, "a": range(1, 62)}).with_columns(a=pl.col("a") ** 2).reverse()
    rows.write_parquet(tmp_path / "s.parquet")
    assert whole(tt.data.load(tmp_path / "s.parquet", standardise=False).train)[0][:2, 0].tolist() == [1, 4]


def test_an_uneven_clock_is_told(tmp_path):
    when = [f"2020-01-{day:02d}" for day in (*range(1, 10), *range(20, 32))]
    data = tt.data.load(write_table(pl.DataFrame({"d": when, "a": walk(21)}), tmp_path / "s.csv"))
    assert any("jumps 1 times" in note for note in data.card.notes)
    rows = pl.DataFrame({"d": [f"2020-01-0{i}" for i in (1, 2, 3, 4, 5, 3)], "a": walk(6)})
    with pytest.raises(InputError, match=r's.csv, row 7: time "d" says "2020-01-03" a second time; .* --series'):
        tt.data.load(write_table(rows, tmp_path / "s.csv"))


def test_several_series(tmp_path):
    rows = pl.DataFrame({"who": ["x", "y"] * 50, "a": [i // 2 + (0 if i % 2 == 0 else 1000) for i in range(100)]})
    data = tt.data.load(write_table(rows, tmp_path / "s.csv"), series="who", standardise=False, max_length=10)
    batch = data.train.lanes(1).batch([0])
    assert batch.x[:, 0, 0].tolist() == [*range(40), *range(1000, 1039)]
    assert batch.counted[:, 0].tolist() == [True] * 39 + [False] + [True] * 39
    for split in (data.train, data.valid, data.test):
        both = split.batch(range(len(split)))
        inside = torch.arange(both.x.shape[0])[:, None] < both.lengths
        assert (both.y[inside] == both.x[inside] + 1).all()
    assert data.card.sizes["train"] == 8
    with pytest.raises(InputError, match=r's.csv, row 3: series "who" is empty'):
        tt.data.load(
            write_table(rows.with_columns(who=pl.Series(["x", "", *["y"] * 98])), tmp_path / "s.csv"), series="who"
        )


@pytest.mark.parametrize("mark", ["", "NA", "NaN", "nan", "null", "N/A"])
def test_gaps_are_refused_or_filled_openly(tmp_path, mark):
    cells = [str(value) for value in range(1, 101)]
    for at in (0, 20, 21, 60):
        cells[at] = mark
    text = "a,b\r\n" + "".join(f"{cell},{i % 7}\r\n" for i, cell in enumerate(cells))
    path = write(tmp_path / "s.csv", text)
    with pytest.raises(InputError, match=r's.csv, row 2: "a" has a gap \(gaps by column: "a" 4\)\. .* --gaps previous'):
        tt.data.load(path)
    data = tt.data.load(path, gaps="previous", standardise=False)
    x, _ = whole(data.train)
    known = [i + 1 for i in range(80) if i not in (0, 20, 21, 60)]
    assert x[0, 0] == pytest.approx(np.mean(known))
    assert x[[20, 21, 22, 60], 0].tolist() == [20, 20, 23, 60]
    counted = data.train.lanes(1).batch([0]).counted[:, 0].tolist()
    assert [t for t, each in enumerate(counted) if not each] == [19, 20, 59]
    assert any("gaps filled with the value before them" in note and '"a" 4' in note for note in data.card.notes)
    assert data.test.batch([0]).counted is None
    other = tt.data.load(path, gaps="previous", target="b")
    assert other.train.batch([0]).counted is None


def test_a_million_rows_are_not_copied(tmp_path):
    pl.DataFrame({"a": np.arange(1_000_000) % 1000 / 7}).write_parquet(tmp_path / "s.parquet")
    data = tt.data.load(tmp_path / "s.parquet")
    lanes = data.train.lanes(4)
    batch = lanes.batch(range(4))
    assert batch.x.shape == (199_999, 4, 1)
    assert batch.x.untyped_storage().data_ptr() == batch.y.untyped_storage().data_ptr()
    assert batch.x.untyped_storage().nbytes() == 800_000 * 4


def refused(tmp_path, text, match, name="s.csv", **options):
    with pytest.raises(InputError, match=match):
        tt.data.load(write(tmp_path / name, text), **options)


def test_what_cannot_be_forecast(tmp_path):
    lines = [f"{i / 3},{i * i}\n" for i in range(50)]
    good = "a,b\n" + "".join(lines)
    refused(tmp_path, good.replace(lines[4], "inf,3\n"), r's.csv, row 6: "a" is inf, beyond 1e.18; mend')
    refused(tmp_path, good.replace(lines[4], "-1e300,3\n"), r's.csv, row 6: "a" is -1e.300, beyond 1e.18')
    refused(
        tmp_path, good.replace(lines[4], "oops,3\n"), r's.csv, row 6: "a" says "oops", which is no number, though most'
    )
    refused(tmp_path, "a\n1.5\n", r"there is 1 row, too short to predict: train, valid and test need")
    refused(tmp_path, "a\n1.5\n2\n3\n", r"there are 3 rows, too short to predict")
    series = "who,a\n" + "".join(f"x,{i}\n" for i in range(20)) + "z,1\n"
    refused(tmp_path, series, r'series "z" has 1 row, too short', series="who")
    refused(tmp_path, "a,b\nx,y\nz,w\n", r's.csv: column "a" holds "x", no numbers; .* --text "a" --label "b"')
    refused(tmp_path, good, r"--label does not fit|no column \"z\"", label="z")
    refused(tmp_path, good, r"--vocabulary does not fit s.csv, read as a series of numbers", vocabulary=10)
    refused(tmp_path, good, r"--lag does not fit", lag=10)
    refused(tmp_path, good, r'--gaps "mean" is not known; pass refuse or previous', gaps="mean")
    refused(tmp_path, good, r'no column "t" \(asked for by --time\)', time="t")
    refused(
        tmp_path,
        "t,a\n" + "".join(f"{'x' if i == 3 else i},{i * i}\n" for i in range(50)),
        r'row 5: time "t" says "x"',
        time="t",
    )
    early = "a,b\n" + "".join(f"{i * i if i > 80 else ''},{i * i}\n" for i in range(100))
    refused(tmp_path, early, r's.csv: no training row has a value of "a"; take the column out', gaps="previous")
    late = "a\n" + "".join("NA\n" if i > 80 else f"{i * i}\n" for i in range(100))
    refused(tmp_path, late, r"every row to be predicted in the validation split has a gap", gaps="previous")


def test_columns_of_words_are_asked_about_and_counters_left_out_openly(tmp_path):
    text = "n,wind,a,note,\n" + "".join(f"{i},{'NW' if i % 2 else 'SE'},{i * i},,\n" for i in range(60))
    path = write(tmp_path / "s.csv", text)
    with pytest.raises(InputError, match=r'column "wind" holds "SE", no numbers; what is it for\? .* --drop "wind"'):
        tt.data.load(path)
    data = tt.data.load(path, drop="wind")
    assert data.card.labels == ("a",)
    told = " / ".join(data.card.notes)
    for part in ('"n" left out: it only counts', 'left out, as asked: "wind"', '"note" left out: it is empty'):
        assert part in told
    assert tt.data.load(path, target="n", drop="wind").card.inputs == 2


def test_a_table_of_numbers_without_a_header(tmp_path):
    data = tt.data.load(write(tmp_path / "s.csv", "".join(f"{i * i},{i % 5}\n" for i in range(50))))
    assert data.card.labels == ("column 1", "column 2")
    assert sum(len(whole(split)[0]) + 1 for split in (data.train, data.valid, data.test)) == 50


def test_tiny_and_constant_numbers_are_told_apart(tmp_path):
    rows = pl.DataFrame({"tiny": walk() * 1e-20, "constant": [0.1] * 200})
    data = tt.data.load(write_table(rows, tmp_path / "s.csv"))
    x, _ = whole(data.train)
    assert np.std(x[:, 0]) == pytest.approx(1, rel=0.02)
    assert np.abs(x[:, 1]).max() < 1e-6

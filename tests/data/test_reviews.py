"""Texts with labels, from every format: the same table gives the same dataset."""

import numpy as np
import polars as pl
import pytest
import torch

import throughtime as tt
from tests.data.files import reviews, write, write_table
from throughtime.errors import InputError

ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet")


def samples(split):
    batch = split.batch(range(len(split)))
    return [(split.words(i), int(batch.y[i])) for i in range(len(split))]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_gives_the_same(tmp_path, ending):
    data = tt.data.load(write_table(reviews(), tmp_path / f"reviews{ending}"), seed=3)
    same = tt.data.load(write_table(reviews(), tmp_path / "same.csv"), seed=3)
    for split in ("train", "valid", "test"):
        assert samples(getattr(data, split)) == samples(getattr(same, split))
    assert (data.card.kind, data.card.step, data.card.metric) == ("classification", "word", "accuracy")
    assert data.card.labels == ("bad", "good")
    assert dict(data.card.sizes) == {"train": 48, "valid": 6, "test": 6}
    assert data.card.name == f"reviews{ending}"
    assert data.vocabulary == same.vocabulary
    assert not data.continues


def test_packing_changes_no_digest(tmp_path):
    plain = tt.data.load(write_table(reviews(), tmp_path / "a.csv"))
    packed = tt.data.load(write_table(reviews(), tmp_path / "a.csv.gz"))
    assert plain.card.digest == packed.card.digest
    assert plain.card.digest != tt.data.load(write_table(reviews(58), tmp_path / "b.csv")).card.digest


def test_words_labels_and_rows_belong_together(tmp_path):
    data = tt.data.load(write_table(reviews(), tmp_path / "r.csv"), minimum_count=1)
    wanted = {row["review"]: row["sentiment"] for row in reviews().rows(named=True)}
    seen = []
    for split in (data.train, data.valid, data.test):
        for words, label in samples(split):
            text = " ".join(words).replace("‹", "").replace("›", "")
            assert wanted[text] == data.card.labels[label]
            seen.append(text)
    assert sorted(seen) == sorted(wanted)


def test_the_vocabulary_is_learned_from_training_alone(tmp_path):
    data = tt.data.load(write_table(reviews(), tmp_path / "r.csv"), minimum_count=1)
    trained = {word for words, _ in samples(data.train) for word in words}
    assert set(data.vocabulary[2:]) == trained
    batch = data.test.batch(range(len(data.test)))
    for i in range(len(data.test)):
        for word, token in zip(data.test.words(i), batch.x[:, i].tolist(), strict=False):
            assert (data.vocabulary[token] == word) if token != 1 else word == f"‹{word[1:-1]}›"
    assert any(word.startswith("‹number") or word[1:-1].isdigit() for word in data.test.words(0))


def test_batches_pad_at_the_end(tmp_path):
    frame = pl.DataFrame({"t": ["one two three four", "five six"] * 10, "y": ["a", "b"] * 10})
    data = tt.data.load(write_table(frame, tmp_path / "r.csv"), text="t", label="y")
    batch = data.train.batch(range(len(data.train)))
    assert batch.x.dtype == batch.y.dtype == torch.int64
    for i, steps in enumerate(batch.lengths.tolist()):
        assert (batch.x[:steps, i] > 0).all()
        assert (batch.x[steps:, i] == 0).all()
    assert data.train.lengths().tolist() == batch.lengths.tolist()


def test_long_texts_keep_their_last_words(tmp_path):
    frame = pl.DataFrame({"t": [f"{'so ' * 9}end {i % 5}" for i in range(20)], "y": ["a", "b"] * 10})
    data = tt.data.load(write_table(frame, tmp_path / "r.csv"), text="t", label="y", max_length=3)
    assert all(words[:2] == ("so", "end") for words, _ in samples(data.train))
    assert data.card.lengths == (3, 3, 3)
    assert any("20 of 20 texts cut to their last 3 words" in note for note in data.card.notes)


def test_the_vocabulary_can_be_limited(tmp_path):
    path = write_table(reviews(), tmp_path / "r.csv")
    data = tt.data.load(path, vocabulary=8)
    assert len(data.vocabulary) == data.card.inputs == 8
    assert int(data.train.batch(range(48)).x.max()) == 7


def test_splits_are_stratified_and_depend_on_the_seed(tmp_path):
    frame = reviews(300).with_columns(sentiment=pl.Series(["rare" if i % 10 == 0 else "common" for i in range(300)]))
    path = write_table(frame, tmp_path / "r.csv")
    data, other = tt.data.load(path), tt.data.load(path, seed=1)
    for split, rare in ((data.train, 24), (data.valid, 3), (data.test, 3)):
        assert abs(sum(label == 1 for _, label in samples(split)) - rare) <= 1
    assert data.card.baseline == pytest.approx(0.9, abs=0.04)
    assert samples(data.test) != samples(other.test)
    assert dict(tt.data.load(path, split=(6, 2, 2)).card.sizes) == {"train": 180, "valid": 60, "test": 60}


def test_lines_of_text_tab_label(tmp_path):
    lines = "".join(f'It\x85s a "film {i}\t{i % 2}\n' for i in range(30))
    data = tt.data.load(write(tmp_path / "labelled.txt", lines))
    assert sum(data.card.sizes.values()) == 30
    assert data.card.labels == ("0", "1")
    assert data.card.step == "word"
    assert data.train.words(0)[:4] == ("it", "s", "a", "film")
    broken = lines.replace("film 7\t1", "film 7 1")
    with pytest.raises(InputError, match=r'labelled.txt, row 8: label "label" is empty; every row needs one of 0, 1\.'):
        tt.data.load(write(tmp_path / "labelled.txt", broken))


def test_a_csv_file_without_a_header(tmp_path):
    frame = reviews(40)
    data = tt.data.load(write(tmp_path / "r.csv", frame.write_csv(include_header=False)))
    assert sum(data.card.sizes.values()) == 40
    assert any("no header" in note for note in data.card.notes)


def test_texts_with_commas_quotes_and_lines(tmp_path):
    frame = reviews(40).with_columns(pl.col("review") + ', said "he",\nand <br /> left &amp; went')
    data = tt.data.load(write_table(frame, tmp_path / "r.csv"), minimum_count=1)
    assert all(words[-4:] == ("he", "and", "left", "went") for words, _ in samples(data.train))
    assert sum(data.card.sizes.values()) == 40


def test_a_stray_quote_in_a_tsv_file_swallows_no_row(tmp_path):
    lines = ["review\tsentiment", *(f'"so it goes number {i}\t{"yes" if i % 2 else "no"}' for i in range(20))]
    data = tt.data.load(write(tmp_path / "r.tsv", "\n".join(lines)))
    assert sum(data.card.sizes.values()) == 20


def test_a_semicolon_between_cells(tmp_path):
    data = tt.data.load(write(tmp_path / "r.csv", reviews(40).write_csv(separator=";")))
    assert data.card.labels == ("bad", "good")


def test_numbers_as_answers(tmp_path):
    score = np.linspace(-3, 12, 60).round(2)
    path = write_table(reviews().with_columns(sentiment=pl.Series(score)), tmp_path / "r.csv")
    data = tt.data.load(path)
    assert (data.card.kind, data.card.metric, data.card.outputs) == ("regression", "mse", 1)
    answers = data.train.batch(range(48)).y
    assert answers.shape == (48, 1)
    assert float(answers.mean()) == pytest.approx(0, abs=1e-5)
    assert float(answers.std(correction=0)) == pytest.approx(1, abs=1e-5)
    test = data.test.batch(range(6)).y
    assert data.card.baseline == pytest.approx(float(test.square().mean()), rel=1e-5)
    raw = tt.data.load(path, target="sentiment", standardise=False)
    assert set(raw.train.batch(range(48)).y[:, 0].numpy().round(2).tolist()) <= set(
        score.astype("f4").round(2).tolist()
    )


def test_whole_numbers_are_values_if_asked_for(tmp_path):
    path = write_table(reviews().with_columns(sentiment=pl.Series(range(60)) % 7), tmp_path / "r.csv")
    assert tt.data.load(path).card.labels == tuple("0123456")
    assert tt.data.load(path, target="sentiment").card.kind == "regression"


def test_the_columns_are_found_or_asked_for(tmp_path):
    more = reviews().with_columns(
        id=pl.Series(range(60)), language=pl.lit("en"), title=pl.col("review").str.to_uppercase(), stars=pl.lit(1)
    )
    path = write_table(more, tmp_path / "r.csv")
    with pytest.raises(InputError, match=r'r.csv: columns "review", "title" all hold text; .* Pass --text COLUMN'):
        tt.data.load(path)
    assert tt.data.load(path, text="title").card.labels == ("bad", "good")
    path = write_table(more.with_columns(stars=pl.Series([1, 2, 3] * 20)), tmp_path / "r.csv")
    with pytest.raises(InputError, match=r'columns "sentiment", "stars" could all be the label; .* --label COLUMN'):
        tt.data.load(path, text="title")
    assert tt.data.load(path, text="title", label="stars").card.labels == ("1", "2", "3")
    path = write_table(reviews().drop("sentiment").with_columns(id=pl.Series(range(60))), tmp_path / "r.csv")
    with pytest.raises(InputError, match=r'no column looks like a label; .* the other columns are "id"'):
        tt.data.load(path)


def test_bad_rows(tmp_path):
    frame = reviews()
    label = frame["sentiment"].to_list()
    label[40] = ""
    path = write_table(frame.with_columns(sentiment=pl.Series(label)), tmp_path / "reviews.csv")
    with pytest.raises(
        InputError,
        match=r'^reviews.csv, row 42: label "sentiment" is empty; every row needs one of bad, good\. '
        r"Drop the row or pass --skip-bad-rows\.$",
    ):
        tt.data.load(path)
    data = tt.data.load(path, skip_bad_rows=True)
    assert sum(data.card.sizes.values()) == 59
    assert any("1 rows without a text or an answer skipped, as asked: row 42" in note for note in data.card.notes)
    for text in ("", "<br />", "?!"):
        cells = frame["review"].to_list()
        cells[0] = text
        path = write_table(frame.with_columns(review=pl.Series(cells)), tmp_path / "reviews.jsonl")
        with pytest.raises(InputError, match=r'reviews.jsonl, row 1: text "review" is empty, or holds no word'):
            tt.data.load(path)
    path = write_table(frame.with_columns(sentiment=pl.Series(["1.5", "nan", "x"] * 20)), tmp_path / "r.csv")
    with pytest.raises(InputError, match=r'row 3: target "sentiment" is "nan", which is no number up to 1e.18'):
        tt.data.load(path, target="sentiment")


def test_copies_across_splits_are_told(tmp_path):
    frame = pl.concat([reviews(20)] * 5)
    notes = tt.data.load(write_table(frame, tmp_path / "r.csv"), text="review").card.notes
    assert any("texts of the test split that also stand in training" in note for note in notes)


def refused(tmp_path, frame, match, **options):
    with pytest.raises(InputError, match=match):
        tt.data.load(write_table(frame, tmp_path / "r.csv"), **options)


def test_tables_that_cannot_be_learned_from(tmp_path):
    one = reviews().with_columns(sentiment=pl.lit("good"))
    refused(tmp_path, one, r'column "sentiment": every row says "good"; .* at least two labels')
    refused(tmp_path, reviews(2), "too few to share out")
    many = reviews(3000).with_columns(sentiment=pl.Series([f"user{i}" for i in range(3000)]))
    refused(tmp_path, many, r"3,000 different labels in 3,000 rows; this looks like", label="sentiment")
    twice = reviews(3000).with_columns(sentiment=pl.Series([f"user{i // 2}" for i in range(3000)]))
    assert tt.data.load(write_table(twice, tmp_path / "r.csv"), label="sentiment").card.outputs == 1500
    same = reviews().with_columns(sentiment=pl.lit(1.5))
    refused(tmp_path, same, r"every row says 1\.5; there is nothing to predict", target="sentiment")
    refused(
        tmp_path,
        reviews(),
        r'no column "stars" \(asked for by --label\); the columns are "review", "sent',
        label="stars",
    )
    refused(tmp_path, reviews(), r'no column "stars" \(asked for by --text\)', text="stars")
    refused(tmp_path, reviews(), r'"review" cannot be both', text="review", label="review")
    refused(tmp_path, reviews(), r"pass one of the two", label="sentiment", target="sentiment")
    refused(tmp_path, reviews(), r"texts take one --target column, not 2", target=["sentiment", "review"])
    refused(
        tmp_path,
        reviews(),
        r"--gaps does not fit r.csv, read as texts with a label; leave it out",
        text="review",
        gaps="refuse",
    )
    refused(tmp_path, reviews(), r"--lag does not fit", lag=3)
    refused(tmp_path, reviews(), r"--standardise does not fit labels", standardise=True)
    refused(tmp_path, reviews(), r"--max-length 0 is too small", max_length=0)
    unlike = pl.DataFrame({"t": [f"{c}a {c}e {c}o" for c in "abcdefghijklmnopqrst"], "y": ["a", "b"] * 10})
    refused(tmp_path, unlike, r"no word occurs 2 times .* --minimum-count 1")


def test_numbered_labels_are_ordered_by_number(tmp_path):
    frame = reviews(120).with_columns(sentiment=pl.Series([str(i % 12) for i in range(120)]))
    assert tt.data.load(write_table(frame, tmp_path / "r.csv")).card.labels == tuple(str(i) for i in range(12))

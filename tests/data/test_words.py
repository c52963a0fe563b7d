"""Words and vocabularies."""

import doctest

from hypothesis import given
from hypothesis import strategies as st

from throughtime.data import words


def test_the_example():
    assert doctest.testmod(words).failed == 0


@given(st.text())
def test_words_are_lower_case_and_come_out_again(text):
    found = words.split(text)
    assert words.split(" ".join(found)) == [w for word in found for w in words.split(word)]
    assert all(word and not word.isspace() and "<" not in word for word in found)


def test_a_lone_bracket_is_no_tag():
    assert words.split("I <3 this, 5 > 4") == ["i", "3", "this", "5", "4"]


@given(st.lists(st.lists(st.sampled_from("abcdef"))), st.integers(3, 8), st.integers(1, 3))
def test_a_vocabulary_holds_the_commonest(samples, most, least_often):
    found = words.vocabulary(samples, most, least_often)
    assert found[:2] == (words.PADDING, words.UNKNOWN)
    assert len(found) <= most
    times = {word: sum(sample.count(word) for sample in samples) for word in "abcdef"}
    kept = [times[word] for word in found[2:]]
    assert kept == sorted(kept, reverse=True)
    assert all(count >= least_often for count in kept)
    left = [count for word, count in times.items() if word not in found and count >= least_often]
    assert not left or (len(found) == most and max(left) <= min(kept))

"""Words and vocabularies."""

import doctest

import pytest
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


MARKS = {
    "Devanagari": ("हिन्दी में किताब", ["हिन्दी", "में", "किताब"]),
    "Tamil": ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
    "Arabic vowels": ("كَتَبَ الوَلَدُ", ["كَتَبَ", "الوَلَدُ"]),
    "Hebrew points": ("שָׁלוֹם עוֹלָם", ["שָׁלוֹם", "עוֹלָם"]),
    "Persian joiner": ("می\u200cخواهم", ["می\u200cخواهم"]),
    "accents apart": ("cafe\u0301 noir", ["cafe\u0301", "noir"]),
    "Vietnamese": ("Tiếng Việt", ["tiếng", "việt"]),
    "Chinese": ("我爱北京, 你呢?", ["我", "爱", "北", "京", "你", "呢"]),
    "Chinese with words": ("用Python写", ["用", "python", "写"]),
    "Japanese": ("がぎ カメラ", ["が", "ぎ", "カ", "メ", "ラ"]),
    "Korean": ("한국어 문장", ["한국어", "문장"]),
    "Thai": ("กินน้ำ", ["กิ", "น", "น้", "ำ"]),
    "emoji": ("good 😀😀 day", ["good", "😀", "😀", "day"]),
    "family": ("a 👨‍👩‍👧‍👦 b", ["a", "👨‍👩‍👧‍👦", "b"]),
    "skin": ("👍🏽👍", ["👍🏽", "👍"]),
    "heart": ("❤️ it", ["❤️", "it"]),
    "flags": ("🇩🇪🇫🇷 flags", ["🇩🇪", "🇫🇷", "flags"]),
    "apostrophe": ("l’été isn't", ["l'été", "isn't"]),
}  # fmt: skip


@pytest.mark.parametrize("case", MARKS)
def test_words_of_every_script_are_whole(case):
    text, expected = MARKS[case]
    assert words.split(text) == expected


def test_characters_keep_their_case_and_are_composed():
    assert words.steps("Ae\u0301 b", True) == ["A", "é", " ", "b"]
    assert words.steps("Ab b", False) == ["ab", "b"]


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

"""Texts as lower-case words, and a vocabulary of them."""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

PADDING, UNKNOWN = "<padding>", "<unknown>"  # token numbers 0 and 1 wherever a vocabulary is learned from data

_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_PLANES = range(0x300, 0x20000)
_MARK = "".join(f"{chr(i)}" for i in _PLANES if unicodedata.category(chr(i)) in ("Mn", "Mc")) + "\u200c\u200d"
_ALONE = (  # written without spaces between words: a character is a word
    "\u0e00-\u0e2f\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e80-\u0eaf\u0eb0\u0eb2\u0eb3\u0ebd-\u0ec6\u1000-\u102a\u1780-\u17b3"
    "\u3005\u3040-\u3096\u309b-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_PICTURE = "[\u2600-\u27bf\u2b00-\u2bff\u231a-\u23ff\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa\U0001f400-\U0001faff]"
_TONE = "[\ufe0f\U0001f3fb-\U0001f3ff]*"
_LETTER = rf"(?:(?![{_ALONE}])[^\W_])"
_WORD = re.compile(
    rf"[\U0001f1e6-\U0001f1ff]{{1,2}}|{_PICTURE}{_TONE}(?:\u200d{_PICTURE}{_TONE})*"
    rf"|[{_ALONE}][{_MARK}]*|{_LETTER}(?:{_LETTER}|[{_MARK}])*(?:['’]{_LETTER}(?:{_LETTER}|[{_MARK}])*)*"
)
_BEYOND = re.compile("[\u0300-\u1fff\u200c\u200d\u2300-\U0010ffff]")  # without these the plain pattern says the same
_SIMPLE = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def split(text: str) -> list[str]:
    """The words of a text, lower case: letters with their marks and digits, apostrophes inside; without HTML tags.

    Where a script sets no spaces (Chinese, Japanese, Thai) each character is a word, and so is an emoji.

    >>> split("It <b>isn't</b> bad!<br />Not at all &amp; cheap")
    ['it', "isn't", 'bad', 'not', 'at', 'all', 'cheap']
    """
    plain = html.unescape(_TAG.sub(" ", text)).replace("’", "'").lower()
    return (_WORD if _BEYOND.search(plain) else _SIMPLE).findall(plain)


def steps(text: str, by_character: bool) -> list[str]:
    """The steps of a text: its words, or its characters with their case."""
    return list(unicodedata.normalize("NFC", text)) if by_character else split(text)


def vocabulary(samples: Iterable[Sequence[str]], most: int, least_often: int) -> tuple[str, ...]:
    """The commonest words (or characters), at most `most` with the two special tokens that come first.

    Words seen fewer than `least_often` times stay out. Equally common ones are taken in alphabetical order.
    """
    seen: Counter[str] = Counter()
    for sample in samples:
        seen.update(sample)
    common = sorted(
        (word for word, times in seen.items() if times >= least_often), key=lambda word: (-seen[word], word)
    )
    return (PADDING, UNKNOWN, *common[: most - 2])

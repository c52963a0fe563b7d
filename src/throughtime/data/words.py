"""Texts as lower-case words, and a vocabulary of them."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Sequence

PADDING, UNKNOWN = "<padding>", "<unknown>"  # token numbers 0 and 1 wherever a vocabulary is learned from data

_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def split(text: str) -> list[str]:
    """The words of a text, lower case: letters and digits, apostrophes inside; without HTML tags.

    >>> split("It <b>isn't</b> bad!<br />Not at all &amp; cheap")
    ['it', "isn't", 'bad', 'not', 'at', 'all', 'cheap']
    """
    return _WORD.findall(html.unescape(_TAG.sub(" ", text)).replace("’", "'").lower())


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

"""Jane ... she: a name, any filler of any length, then the pronoun that depends on the name."""

from __future__ import annotations

import numpy as np

from throughtime.data.dataset import Dataset
from throughtime.data.draws import Draws
from throughtime.data.generated import FITS, Sample, Task, dataset
from throughtime.data.options import Options
from throughtime.data.words import PADDING
from throughtime.records import DataCard

LAG = 50

_NAMES = (
    ("jane", "mary", "anna", "emma", "lucy", "rosa", "nina", "ruth"),
    ("john", "mark", "paul", "adam", "hugo", "karl", "omar", "fred"),
)
_FILLER = (
    "walked into the room",
    "saw the old house by the river",
    "it was late in the day",
    "after a long walk in the rain",
    "the train had left the station",
    "nobody knew what to say",
    "there was bread and tea on the table",
    "a dog slept under the window",
    "the door was open again",
    "music came from the street",
    "they talked about the weather",
    "the light went out",
    "all the books were still there",
    "and so the evening went by",
)
_CUE = "then"  # the pronoun comes after this word
_PHRASES = tuple(phrase.split() for phrase in _FILLER)


class Jane(Task):
    """A name, 0 to `lag` − 1 words of filler, "then"; the answer is the pronoun to come: she or he.

    Half of the names go with each. The filler says nothing of the answer and has every length equally often.
    """

    name = "jane"
    vocabulary = (
        PADDING,
        *_NAMES[0],
        *_NAMES[1],
        *dict.fromkeys(word for phrase in _PHRASES for word in phrase),
        _CUE,
    )

    def __init__(self, lag: int) -> None:
        self.lag = lag
        number = {word: i for i, word in enumerate(self.vocabulary)}
        self._names = [[number[name] for name in names] for names in _NAMES]
        self._phrases = [[number[word] for word in phrase] for phrase in _PHRASES]
        self._cue = number[_CUE]

    @property
    def longest(self) -> int:
        """The name, `lag` − 1 words and the cue."""
        return self.lag + 1

    def length(self, draws: Draws) -> int:
        """2 to `lag` + 1 steps."""
        return 2 + draws.one(self.lag)

    def sample(self, length: int, draws: Draws) -> Sample:
        """Tokens (T,) and the class (): 0 she, 1 he."""
        answer = draws.one(2)
        name = self._names[answer][draws.one(len(self._names[answer]))]
        filler: list[int] = []
        while len(filler) < length - 2:
            filler += self._phrases[draws.one(len(self._phrases))]
        return np.array([name, *filler[: length - 2], self._cue], dtype=np.int64), np.asarray(answer, dtype=np.int64)

    def card(self, sizes: dict[str, int], lengths: tuple[int, int, int], digest: str) -> DataCard:
        """Baseline: one of two, right half of the time."""
        return DataCard(
            name=self.name,
            kind="classification",
            step="word",
            tokens=True,
            inputs=len(self.vocabulary),
            outputs=2,
            labels=("she", "he"),
            metric="accuracy",
            baseline=0.5,
            baseline_is="either of the two pronouns: right half of the time",
            lag=self.lag,
            sizes=sizes,
            lengths=lengths,
            digest=digest,
            notes=(f"from the name to the pronoun's place: 1 to {self.lag} steps, each equally likely",),
        )


def load(options: Options) -> Dataset:
    """Sentences in which the pronoun stands up to `lag` steps after the name."""
    options.refuse_all_but(FITS, Jane.name)
    lag = options.at_least("lag", 1, LAG)
    return dataset(Jane(lag), lag, options)

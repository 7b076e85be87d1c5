"""Next-character prediction from a play."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from raysim.core.interfaces import Data, DataError, Dataset
from raysim.core.losses import CrossEntropy
from raysim.core.plugin import Count
from raysim.data.files import PathText, existing

_SPEAKER = re.compile(
    r"(?:\A|(?<=\n\n))([^\n:]{1,40}):\n"
)  # a line of its own, after an empty line: "First Citizen:"


@dataclass(frozen=True)
class Text(Data):
    """Next-character prediction from a plain text, with its speakers as natural clients.

    A speech is a line ``NAME:`` after an empty line and what follows up to the next one, as in Tiny
    Shakespeare. Each speaker's speeches are joined and cut into windows of ``length`` characters that do not
    overlap: x is a window, y the same moved on by one character. The last windows of every speaker are the
    test. Speakers whose text gives fewer than two windows (one to train on, one to test) are left out, and so
    is what stands before the first speaker. A text with fewer than two speakers is one stream without groups.
    The vocabulary is the file's characters in the order of their code points; ``groups`` counts the speakers
    that remain, in alphabetical order.

    Args:
        path: the text, in UTF-8.
        length: characters in a window.
        test_fraction: share of each speaker's windows kept for the test, rounded, at least one; between 0 and
            1.

    Paper: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, Communication-Efficient Learning of Deep Networks
    from Decentralized Data, 2017, https://arxiv.org/abs/1602.05629 (their Shakespeare task; this splits one
    file)
    """

    path: PathText
    length: Count = 80
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2

    def load(self) -> Dataset:
        """The windows, speaker after speaker."""
        file = existing(self.path, "Any plain text will do; Tiny Shakespeare has speakers.")
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{file.absolute()} is not UTF-8 text ({error}).") from error
        vocabulary = np.unique(_code_points(text))
        speeches = [np.searchsorted(vocabulary, _code_points(part)) for part in _speeches(text)]
        kept = [stream for stream in speeches if len(stream) > 2 * self.length]
        if not kept:
            raise DataError(
                f"{file.absolute()} has {len(text)} characters, too few for any speaker to have two windows "
                f"of {self.length} and one character more. Choose a smaller length or a longer text."
            )
        train, test = zip(*(self._windows(stream) for stream in kept), strict=True)
        x_train, x_test = (
            np.concatenate([w[:, :-1] for w in train]),
            np.concatenate([w[:, :-1] for w in test]),
        )
        y_train, y_test = np.concatenate([w[:, 1:] for w in train]), np.concatenate([w[:, 1:] for w in test])
        owner = np.repeat(np.arange(len(kept)), [len(w) for w in train])
        return Dataset(
            *(np.ascontiguousarray(part) for part in (x_train, y_train, x_test, y_test)),
            loss=CrossEntropy(),
            outputs=len(vocabulary),
            groups=owner if len(speeches) > 1 else None,
        )

    def _windows(self, stream: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Training and test windows with the character that follows each, [number, length + 1] int64."""
        number = (len(stream) - 1) // self.length
        start = np.arange(number) * self.length
        window = stream[start[:, None] + np.arange(self.length + 1)].astype(np.int64)
        test = min(max(round(self.test_fraction * number), 1), number - 1)
        return window[: number - test], window[number - test :]


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _speeches(text: str) -> list[str]:
    """What each speaker says, in alphabetical order of the names; the whole text if fewer than two speak."""
    pieces = _SPEAKER.split(text)
    said: dict[str, list[str]] = {}
    for name, speech in zip(pieces[1::2], pieces[2::2], strict=True):
        said.setdefault(name, []).append(speech.strip("\n") + "\n")
    return ["".join(said[name]) for name in sorted(said)] if len(said) > 1 else [text]

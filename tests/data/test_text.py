"""Windows of a play: exact tokens, natural clients, and nothing of the test in the training set."""

import numpy as np
import pytest

from raysim.core.interfaces import DataError
from raysim.core.plugin import ConfigError
from raysim.data import Text
from raysim.data.partitions import IID, ByGroup, Dirichlet

PLAY = """A preface: nobody says this.

BRUTUS:
Good night, sweet prince; and then some more words here.

Ann Page:
To be or not to be: that is the question, is it not?
It is indeed the question that we ask today.

BRUTUS:
Another speech.

Mute:
Ay.
"""
BRUTUS = "Good night, sweet prince; and then some more words here.\nAnother speech.\n"
ANN = "To be or not to be: that is the question, is it not?\nIt is indeed the question that we ask today.\n"


def written(tmp_path, text):
    (tmp_path / "play.txt").write_text(text, encoding="utf-8")
    return tmp_path / "play.txt"


def decoded(rows):
    vocabulary = sorted(set(PLAY))
    return ["".join(vocabulary[i] for i in row) for row in rows]


def test_windows_are_the_speakers_words(tmp_path):
    data = Text(written(tmp_path, PLAY), length=10).load()
    assert data.x_train.dtype == data.y_train.dtype == np.int64
    assert data.outputs == len(set(PLAY))
    windows = {"Ann Page": (len(ANN) - 1) // 10, "BRUTUS": (len(BRUTUS) - 1) // 10}  # Mute is left out
    kept = {name: round(0.2 * number) for name, number in windows.items()}
    for i, (name, text) in enumerate((("Ann Page", ANN), ("BRUTUS", BRUTUS))):
        mine = data.groups == i
        train = windows[name] - kept[name]
        assert decoded(data.x_train[mine]) == [text[10 * k : 10 * k + 10] for k in range(train)]
        assert decoded(data.y_train[mine]) == [text[10 * k + 1 : 10 * k + 11] for k in range(train)]
    expected = [
        text[10 * k : 10 * k + 10]
        for name, text in (("Ann Page", ANN), ("BRUTUS", BRUTUS))
        for k in range(windows[name] - kept[name], windows[name])
    ]
    assert decoded(data.x_test) == expected


def test_speakers_with_one_window_only_are_left_out(tmp_path):
    data = Text(written(tmp_path, PLAY), length=(len(BRUTUS) + 1) // 2).load()
    assert set(data.groups) == {0}
    assert data.groups is not None
    data = Text(written(tmp_path, PLAY), length=(len(BRUTUS) - 1) // 2).load()
    assert set(data.groups) == {0, 1}
    assert len(data.x_test) == 2


def test_plain_prose_has_no_groups(tmp_path):
    data = Text(
        written(tmp_path, "It was a dark and stormy night. " * 20), length=16, test_fraction=0.5
    ).load()
    assert data.groups is None
    assert len(data.x_train) == 19
    assert len(data.x_test) == 20
    assert data.outputs == len(set("It was a dark and stormy night. "))


def test_clients_are_speakers_and_labels_are_none(tmp_path):
    data = Text(written(tmp_path, PLAY), length=10).load()
    assert len(ByGroup().split(data, 0)) == 2
    assert len(IID(3).split(data, 0)) == 3
    with pytest.raises(ConfigError, match="sequences of tokens"):
        Dirichlet(2, 1.0).split(data, 0)


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"No file at /.*nothing\.txt"):
        Text(tmp_path / "nothing.txt").load()
    with pytest.raises(DataError, match="too few for any speaker"):
        Text(written(tmp_path, PLAY), length=500).load()
    with pytest.raises(DataError, match="too few"):
        Text(written(tmp_path, "")).load()
    (tmp_path / "latin.txt").write_bytes("café ".encode("latin-1") * 100)
    with pytest.raises(DataError, match="is not UTF-8"):
        Text(tmp_path / "latin.txt").load()


def test_other_alphabets(tmp_path):
    data = Text(written(tmp_path, "жизнь 🙂 " * 50), length=7).load()
    assert data.outputs == len(set("жизнь 🙂 "))

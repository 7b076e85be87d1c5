"""Every class of the two folders says what it is, what its fields mean and where it comes from."""

import dataclasses

import pytest

from raysim import data
from raysim.core.interfaces import Data, Partition
from raysim.core.plugin import field_docs, field_types, paper, summary
from raysim.data import partitions

CLASSES = [getattr(data, n) for n in data.__all__] + [getattr(partitions, n) for n in partitions.__all__]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_docstring(cls):
    assert issubclass(cls, (Data, Partition))
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert summary(cls).endswith(".")
    assert list(field_docs(cls)) == list(field_types(cls))
    assert all(field_docs(cls).values())
    assert "https://" in paper(cls) or paper(cls).startswith("none.")

"""``import raysim`` by itself: all its names, and nothing heavy until one is used."""

import subprocess
import sys

import pytest

import raysim


def alone(code):
    """What a fresh interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    ).stdout.split()


@pytest.mark.parametrize("name", raysim.__all__)
def test_every_public_name_is_there_and_listed(name):
    assert getattr(raysim, name) is not None
    assert name in dir(raysim)


def test_a_wrong_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Simulatoin'"):
        raysim.Simulatoin  # noqa: B018 (the look-up is the test)


def test_neither_the_package_nor_its_help_imports_anything_heavy():
    heavy = "print(*{'torch', 'pandas', 'ray', 'scipy', 'matplotlib'} & set(sys.modules))"
    assert alone(f"import sys, raysim, raysim.cli; {heavy}") == []


def test_a_name_is_imported_when_it_is_first_used():
    code = (
        "import sys, raysim as rs; rs.Placement; print('torch' in sys.modules, rs.Placement(actors=2).actors)"
    )
    assert alone(code)[-1] == "2"
    assert alone("from raysim import *; print(resume.__module__, partitions.__name__)") == [
        "raysim.runtime.drive",
        "raysim.data.partitions",
    ]

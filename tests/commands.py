"""The command line, called in this process."""

import pytest

from raysim.cli import main


def call(*arguments):
    """Exit code of a command."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return caught.value.code or 0

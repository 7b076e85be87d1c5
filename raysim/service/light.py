"""Waiting without weight: in a light process ``import raysim`` does not run its ``__init__``, which needs torch.

A cluster may have a hundred runs that wait for their turn. A process with torch holds some 300 MB, one without a third
of that; so a job waits without, and becomes whole when it has what it waits for. Until then it imports what needs no
torch: ``raysim.runtime.placing``, ``capacity`` and ``storage``, and this folder's own (a test holds them to that).
"""

from __future__ import annotations

import sys

LIGHT = (
    "import importlib.util as u, sys, types; m = types.ModuleType('raysim'); "
    "m.__path__ = list(u.find_spec('raysim').submodule_search_locations); sys.modules['raysim'] = m; "
    "import raysim.service.{module} as job; sys.exit(job.main())"
)
"""For ``python -c``: runs ``main`` of a module of this folder in a light process."""


def is_light() -> bool:
    """Whether this process has a package raysim of which only the parts that were asked for have run."""
    return "raysim" in sys.modules and not hasattr(sys.modules["raysim"], "__version__")


def become_whole() -> None:
    """Let ``import raysim`` give all of it from here on."""
    if is_light():
        for name in [name for name in sys.modules if name.partition(".")[0] == "raysim"]:
            del sys.modules[name]

"""Aggregation rules. Adding one: a file here and its name below."""

from raysim.core.interfaces import Rule
from raysim.rules.averaging import Averaging

__all__ = ["Averaging", "Rule"]

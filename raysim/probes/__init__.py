"""Probes: numbers measured on demand. Adding one: a file here and its name below."""

from raysim.core.interfaces import Probe

__all__ = ["Probe"]

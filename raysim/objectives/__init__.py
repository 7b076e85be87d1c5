"""Objectives: what clients minimise on a batch. Adding one: a file here and its name below."""

from raysim.core.interfaces import Objective

__all__ = ["Objective"]

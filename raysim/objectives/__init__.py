"""Objectives: what clients minimise on a batch. Adding one: a file here and its name below."""

from raysim.core.interfaces import Objective
from raysim.objectives.adversarial import Adversarial

__all__ = ["Adversarial", "Objective"]

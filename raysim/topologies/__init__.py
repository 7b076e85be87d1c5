"""Topologies: who talks to whom. Adding one: a file here and its name below."""

from raysim.core.interfaces import Topology

__all__ = ["Topology"]

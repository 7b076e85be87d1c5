"""Compressors: what a client sends in place of a row. Adding one: a file here and its name below."""

from raysim.compressors.topk import TopK
from raysim.core.interfaces import Compressor

__all__ = ["Compressor", "TopK"]

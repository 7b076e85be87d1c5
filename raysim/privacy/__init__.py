"""Privacy: rows that are clipped and noised. Adding one: a file here and its name below."""

from raysim.core.transforms import Privacy
from raysim.privacy.clip import AdaptiveClip, Clip
from raysim.privacy.mechanism import GaussianMechanism

__all__ = ["AdaptiveClip", "Clip", "GaussianMechanism", "Privacy"]

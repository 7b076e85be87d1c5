"""Node providers of the fake cloud; imported by the autoscaler's own process on the head."""

import functools
from unittest import mock

from ray._private.parameter import RayParams
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class Loopback(FakeMultiNodeProvider):
    """Ray's fake provider, its nodes on loopback addresses of their own rather than the machine's."""

    def _create_node_with_resources_and_labels(self, *args):
        here = functools.partial(RayParams, node_ip_address=f"127.0.0.{3 + self._next_node_id}")
        with mock.patch("ray._private.parameter.RayParams", here):
            super()._create_node_with_resources_and_labels(*args)


class NoSpot(Loopback):
    """A cloud that has no spot nodes today."""

    def create_node_with_resources_and_labels(self, node_config, tags, count, resources, labels):
        if labels.get("ray.io/market-type") == "spot":
            raise RuntimeError("InsufficientInstanceCapacity")
        super().create_node_with_resources_and_labels(node_config, tags, count, resources, labels)

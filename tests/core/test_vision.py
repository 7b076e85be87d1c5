"""torchvision comes in late, without its compiled operators if need be, and without warnings."""

import os
import subprocess
import sys

import torch

from raysim.core import vision

ALONE = """
import sys, warnings
warnings.simplefilter("error")
import raysim.data, raysim.data.partitions
assert "torchvision" not in sys.modules, "importing raysim.data imported torchvision"
from raysim.core import vision
assert vision.datasets().MNIST.__name__ == "MNIST"
network = vision.models().resnet18(num_classes=10).eval()
import torch
assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
assert hasattr(torch.ops.torchvision, "nms") and hasattr(torch.ops.torchvision, "qnms")
print("fine")
"""


def test_in_a_fresh_process_torchvision_is_imported_only_when_asked_for():
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "TORCHVISION_WARN_WHEN_EXTENSION_LOADING_FAILS": "1"},
    )
    assert done.stdout.strip() == "fine", done.stderr


def test_asking_twice_gives_the_same_modules_and_declares_nothing_twice():
    assert vision.datasets() is vision.datasets()
    declared = len(vision._declared)
    vision.models()
    assert len(vision._declared) == declared
    assert hasattr(torch.ops.torchvision, "nms")


def test_only_missing_operators_are_declared():
    vision.datasets()
    before = len(vision._declared)
    vision._declare_missing()
    assert len(vision._declared) == before

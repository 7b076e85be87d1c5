"""Compressors that every law is tried on: of each class, every way it can work."""

import raysim as rs

c = rs.compressors

EXAMPLES = {
    c.DPSign: [c.DPSign(epsilon=0.5, delta=1e-3, sensitivity=0.1)],
    c.Feedback: [
        c.Feedback(c.TopK(fraction=0.1)),
        c.Feedback(c.TopK(fraction=0.1, per_layer=True)),
        c.Feedback(c.RandomK(fraction=0.3, scaled=False)),
        c.Feedback(c.QSGD(levels=8, bucket=16)),
        c.Feedback(c.Feedback(c.Sign())),
    ],
    c.MomentumCorrection: [
        c.MomentumCorrection(c.TopK(fraction=0.1), momentum=0.7),
        c.MomentumCorrection(c.RandomK(fraction=0.3, scaled=False), masking=False),
        c.MomentumCorrection(c.Natural()),
    ],
    c.Natural: [c.Natural()],
    c.PowerSGD: [c.PowerSGD(), c.PowerSGD(rank=2, min_compression=1.0)],
    c.QSGD: [
        c.QSGD(levels=1, bucket=None),
        c.QSGD(levels=4, bucket=16),
        c.QSGD(levels=127),
        c.QSGD(levels=1, bucket=None, norm="max"),
        c.QSGD(levels=5, bucket=10, norm="max"),
    ],
    c.RandomK: [c.RandomK(fraction=0.25), c.RandomK(fraction=0.25, scaled=False), c.RandomK(fraction=1.0)],
    c.Sign: [c.Sign(), c.Sign(scale="row"), c.Sign(scale="none")],
    c.StochasticSign: [
        c.StochasticSign(bound="max", scaled=True),
        c.StochasticSign(bound="max"),
        c.StochasticSign(bound=0.5, scaled=True),
    ],
    c.Ternary: [c.Ternary(), c.Ternary(per_layer=False)],
    c.TopK: [
        c.TopK(fraction=0.01),
        c.TopK(fraction=0.2),
        c.TopK(fraction=0.2, per_layer=True),
        c.TopK(fraction=0.9),
        c.TopK(fraction=1.0),
    ],
}
ALL = [example for examples in EXAMPLES.values() for example in examples]
RANDOM = (c.DPSign, c.Natural, c.QSGD, c.RandomK, c.StochasticSign, c.Ternary)


def innermost(compressor):
    """What is inside all wrappers."""
    while hasattr(compressor, "compressor"):
        compressor = compressor.compressor
    return compressor

"""The one-gather augmentation equals a loop over images."""

import torch

from raysim.core import streams
from raysim.data.augment import crop_and_flip


def stack(clients=3, batch=17, channels=3, height=9, width=12):
    shape = (clients, batch, channels, height, width)
    return streams.normal(streams.key(1, "images"), *shape), streams.key(2, "augment", torch.arange(clients))


def test_equals_padding_cutting_and_mirroring_image_by_image():
    x, key_C = stack()
    out = crop_and_flip(x, key_C)
    clients, batch, channels, height, width = x.shape
    assert out.shape == x.shape
    for c in range(clients):
        top = streams.integers(streams.key(key_C[c], "crop row"), 9, batch)
        left = streams.integers(streams.key(key_C[c], "crop column"), 9, batch)
        flip = streams.integers(streams.key(key_C[c], "flip"), 2, batch)
        for b in range(batch):
            padded = torch.zeros(channels, height + 8, width + 8)
            padded[:, 4:-4, 4:-4] = x[c, b]
            cut = padded[:, top[b] : top[b] + height, left[b] : left[b] + width]
            assert torch.equal(out[c, b], cut.flip(-1) if flip[b] else cut)


def test_a_client_does_not_depend_on_its_neighbours():
    x, key_C = stack()
    assert torch.equal(crop_and_flip(x, key_C)[1:2], crop_and_flip(x[1:2], key_C[1:2]))


def test_shifts_and_mirror_images_are_uniform():
    width = 9
    x = torch.zeros(1, 4000, 1, 9, width)
    x[..., 4, 4] = 1  # the middle pixel tells where the cut was
    place = crop_and_flip(x, streams.key(0, torch.arange(1))).flatten(2).argmax(-1).flatten()
    count = torch.bincount(place, minlength=81)
    assert count.min() > 20  # 49 expected
    assert count.max() < 90

    x = torch.zeros(1, 4000, 1, 1, 40)
    x[..., 20:] = 1  # the bright half tells whether it was mirrored; rows may move out of the picture
    x = x.expand(1, 4000, 1, 9, 40)
    mirrored = crop_and_flip(x, streams.key(0, torch.arange(1)))[0, :, 0, 4, 10] == 1
    assert abs(mirrored.float().mean() - 0.5) < 0.03

"""Augmentations of the context frame: hand-computed results and distributions."""

import pytest
import torch

from cwm.nn.augment import AUGMENTATIONS, erase, flip, scale, shift
from cwm.settings import ModelConfig, RSSMConfig, VisionConfig
from cwm.world.vision import Vision


def test_erase_greys_one_rectangle_in_half_of_the_frames():
    torch.manual_seed(0)
    frames = torch.ones(400, 3, 64, 64)
    erased = erase(frames)[:, 0] == 0
    touched = erased.any((1, 2))
    assert 160 < touched.sum() < 240
    for mask in erased[touched]:
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert mask.sum() == rows * columns  # a rectangle, without holes
        assert 0.015 < mask.float().mean() < 0.36
        assert 0.25 < rows / columns < 4


def numbered(count=2, size=64):
    """Frames whose pixel values are all different: pixel index plus frame index / 1000."""
    pixel = torch.arange(size * size, dtype=torch.float64).view(1, 1, size, size)
    return (
        pixel
        + torch.tensor([0.0, 0.25, 0.5])[None, :, None, None]
        + torch.arange(count, dtype=torch.float64).view(-1, 1, 1, 1) / 1000
    )


def test_shift_moves_pixels_and_repeats_the_edge():
    frames = numbered(3)
    # Of 17 places from -8 to 8: none at 8/17, and the first and last at both ends of the interval.
    u = torch.tensor([[8.5, 0.0, 16.9], [8.5, 10.5, 16.9]]) / 17
    still, up, corner = shift(frames, u)
    assert torch.equal(still, frames[0])
    rows, columns = (torch.arange(64) - 8).clamp(min=0), (torch.arange(64) + 2).clamp(max=63)
    assert torch.equal(up, frames[1][:, rows][:, :, columns])
    rows = columns = (torch.arange(64) + 8).clamp(max=63)
    assert torch.equal(corner, frames[2][:, rows][:, :, columns])


def test_shifts_are_independent_and_uniform():
    torch.manual_seed(0)
    moved = shift(numbered(1).expand(2000, -1, -1, -1))[:, 0, 32, 32] - (32 * 64 + 32)
    down = (moved / 64).round()
    right = moved - 64 * down
    for by in (down, right):
        assert sorted(set(by.tolist())) == list(range(-8, 9))
        assert (by + 8).long().bincount().min() > 70  # of 118
    assert torch.corrcoef(torch.stack([down, right]))[0, 1].abs() < 0.1


def test_flip_mirrors_the_whole_batch_or_nothing():
    frames = numbered()
    assert torch.equal(flip(frames, torch.tensor(0.5)), frames)
    mirrored = flip(frames, torch.tensor(0.49))
    assert torch.equal(mirrored, frames[..., list(range(63, -1, -1))])
    torch.manual_seed(0)
    share = sum(not torch.equal(flip(frames), frames) for _ in range(400))
    assert 160 < share < 240


def test_scale_resizes_bilinearly():
    """Area 3/4 and aspect 4/3: 64 wide and 48 tall, of 17 places for its top the last."""
    frames = numbered()
    u = torch.zeros(11, 2)
    u[0] = torch.tensor([0.75, 1.0])
    u[10] = torch.tensor([0.99, 0.5])
    cropped = scale(frames, u)
    # Row i is read at 16 + (i + 1/2) 48/64 - 1/2, not above the crop's first row, at whole columns.
    rows = (16 + (torch.arange(64).double() + 0.5) * 0.75 - 0.5).clamp(min=16, max=63)
    by_hand = frames[:, :, :1] + 64 * rows.view(1, 1, -1, 1)
    torch.testing.assert_close(cropped, by_hand, rtol=0, atol=1e-9)


def test_scale_takes_first_fitting_candidate_or_whole_frame():
    frames = numbered()
    small, large = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 1.0])  # 52 by 52; 74 wide
    u = torch.stack([large] * 3 + [small] * 7 + [torch.zeros(2)])
    expected = torch.nn.functional.interpolate(
        frames[..., :52, :52], (64, 64), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(scale(frames, u), expected, rtol=0, atol=1e-9)
    u[:10] = large
    torch.testing.assert_close(scale(frames, u), frames, rtol=0, atol=1e-9)


def test_scale_crops_have_the_specified_areas():
    torch.manual_seed(0)
    row = torch.arange(64.0).view(1, 1, -1, 1).expand(1, 1, 64, 64).double()
    read = torch.cat([row, row.mT], 1)
    crops = torch.stack([scale(read)[0] for _ in range(500)])
    # The middle rows lie a constant step apart: the crop's size over the frame's.
    tall = 64 * (crops[:, 0, 40, 0] - crops[:, 0, 24, 0]) / 16
    wide = 64 * (crops[:, 1, 0, 40] - crops[:, 1, 0, 24]) / 16
    area, aspect = tall * wide / 4096, wide / tall
    torch.testing.assert_close(tall, tall.round())
    assert 0.645 < area.min() < 0.69
    assert area.max() == 1
    assert 0.73 < aspect.min() < 0.77
    assert 1.3 < aspect.max() < 1.37
    assert 0.97 < aspect.median() < 1.03
    assert abs((wide - tall).sign().mean()) < 0.1


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_keep_shape_range_and_precision(name):
    torch.manual_seed(0)
    frames = torch.rand(4, 3, 64, 64, dtype=torch.float64) - 0.5
    seen = []
    for dtype in (torch.float64, torch.float32):
        torch.manual_seed(0)  # of which the first number flips
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            seen.append(AUGMENTATIONS[name](frames.to(dtype)))
        assert seen[-1].dtype == dtype
        assert seen[-1].shape == frames.shape
        assert seen[-1].abs().max() <= 0.5
    torch.testing.assert_close(seen[0], seen[1].double(), rtol=0, atol=1e-5)
    assert not torch.equal(seen[0], frames)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_context_is_augmented_in_training_only(name):
    torch.manual_seed(0)
    vision = Vision(ModelConfig(VisionConfig(depth=4), rssm=RSSMConfig(8, 2, 2, 8)), name)
    pixels, index = torch.rand(4, 2, 3, 64, 64) - 0.5, torch.zeros(4, dtype=torch.long)
    # The context encoder's own batch norms differ between the two: compare what it is given.
    given = []
    vision.context.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    torch.manual_seed(0)  # of which the first number flips
    vision.eval().encode_context(pixels, index)
    vision.train().encode_context(pixels, index)
    assert torch.equal(given[0], pixels[:, 0])
    assert not torch.equal(given[1], pixels[:, 0])

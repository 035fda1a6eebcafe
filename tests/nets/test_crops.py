"""Digits cut from images and from feature maps, compared with slicing and with torchvision's RoIAlign."""

import pytest
import torch
import torchvision
from torch import Tensor

from dcnas_nets.classifiers import crop_digits, crop_features


def corners_within(batch: int, height: int, width: int) -> Tensor:
    """Return random boxes that lie inside, the four extreme corners first."""
    generator = torch.Generator().manual_seed(0)
    tops, lefts = (torch.randint(0, side - 27, (batch, 2), generator=generator) for side in (height, width))
    tops[0], lefts[0] = torch.tensor([0, height - 28]), torch.tensor([width - 28, 0])
    return torch.stack([tops, lefts], dim=-1)


@pytest.mark.parametrize("size", [(28, 28), (56, 56), (57, 96)])
def test_digits_are_slices_of_the_image(size: tuple[int, int]) -> None:
    """Digit by digit, scene by scene, the crop is the 28x28 window at its corner."""
    image = torch.rand(4, 3, *size, generator=torch.Generator().manual_seed(1))
    corners = corners_within(4, *size)
    crops = crop_digits(image, corners)
    assert crops.shape == (8, 3, 28, 28)
    for scene in range(4):
        for digit in range(2):
            top, left = corners[scene, digit].tolist()
            assert torch.equal(crops[2 * scene + digit], image[scene, :, top : top + 28, left : left + 28])


def test_a_box_that_leaves_the_image_repeats_its_edge() -> None:
    """Boxes partly outside give the nearest pixels, as replicate padding would."""
    image = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(image, (28, 28, 28, 28), mode="replicate")
    corners = torch.tensor([[[-7, 30], [35, -12]]])
    crops = crop_digits(image, corners)
    for digit, (top, left) in enumerate(corners[0].tolist()):
        assert torch.equal(crops[digit], padded[0, :, top + 28 : top + 56, left + 28 : left + 56])


def test_crops_carry_the_gradient_to_their_window_alone() -> None:
    """The gradient of a crop's sum is one inside its box and nothing outside; where boxes overlap it adds up."""
    image = torch.zeros(1, 3, 40, 40, requires_grad=True)
    crop_digits(image, torch.tensor([[[0, 0], [4, 12]]])).sum().backward()  # type: ignore[no-untyped-call] # torch ships backward without annotations
    expected = torch.zeros(40, 40)
    expected[0:28, 0:28] += 1
    expected[4:32, 12:40] += 1
    assert image.grad is not None
    assert torch.equal(image.grad[0, 0], expected)


@pytest.mark.parametrize("size", [(96, 96), (56, 56), (64, 104)])
def test_features_are_sampled_as_roi_align_does(size: tuple[int, int]) -> None:
    """Four by four bins of each digit's box at an eighth of the size are RoIAlign's, one sample a bin, half-pixel aligned, to 1e-5."""
    height, width = size
    features = torch.randn(5, 7, height // 8, width // 8, generator=torch.Generator().manual_seed(2))
    corners = corners_within(5, height, width)
    boxes = torch.tensor(
        [[scene, left, top, left + 28, top + 28] for scene, pair in enumerate(corners.tolist()) for top, left in pair],
        dtype=torch.float32,
    )
    expected = torchvision.ops.roi_align(
        features, boxes, output_size=4, spatial_scale=1 / 8, sampling_ratio=1, aligned=True
    )
    torch.testing.assert_close(crop_features(features, corners, 8), expected, rtol=0, atol=1e-5)


def test_features_at_full_size_are_pixels_at_the_bin_centres() -> None:
    """With stride 1 a bin's centre lies on a pixel: 3, 10, 17 and 24 from the corner."""
    features = torch.randn(1, 2, 60, 60, generator=torch.Generator().manual_seed(3))
    windows = crop_features(features, torch.tensor([[[5, 9]]]), 1)
    rows, columns = (torch.tensor([3, 10, 17, 24]) + start for start in (5, 9))
    torch.testing.assert_close(windows[0], features[0][:, rows][:, :, columns], rtol=0, atol=1e-6)


def test_a_constant_map_stays_constant_at_the_borders() -> None:
    """The weights of every sample add up to one, also where the box ends at the edge of the map."""
    corners = torch.tensor([[[0, 0], [68, 68]]])
    windows = crop_features(torch.full((1, 3, 12, 12), 2.5), corners, 8)
    torch.testing.assert_close(windows, torch.full((2, 3, 4, 4), 2.5))

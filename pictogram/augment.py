"""Drawings to what the tower sees: on a background, and in training never twice the same."""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor

SIDE = 64
MEAN = DEVIATION = 0.5
PLAIN_SCALE = 0.9
"""The share of the image that a drawing fills without random scaling."""
LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601."""


def plain(pixels: Tensor) -> Tensor:
    """Upright, on white: RGBA uint8 [n, S, S, 4] to float32 [n, 3, SIDE, SIDE], normalized."""
    count = len(pixels)
    none = torch.zeros(count)
    colour, alpha = _place(pixels, torch.full((count,), PLAIN_SCALE), torch.ones(count), none, none, none)
    return _normalize(colour + (1 - alpha))


def augment(pixels: Tensor) -> Tensor:
    """Turned, scaled, shifted, coloured and covered at random; shapes as `plain`."""
    count = len(pixels)
    scale = torch.empty(count).uniform_(0.6, 1.0)
    aspect = torch.exp(torch.empty(count).uniform_(-0.12, 0.12))
    angle = torch.empty(count).uniform_(-0.26, 0.26)
    reach = 1 - scale + 0.06
    across, down = ((torch.rand(count) * 2 - 1) * reach for _ in range(2))
    colour, alpha = _place(pixels, scale, aspect, angle, across, down)
    colour = _jitter(colour / alpha.clamp_min(1e-3)) * alpha
    images = colour + (1 - alpha) * _backgrounds(count)
    images = torch.where(_chance(count, 0.15), F.avg_pool2d(images, 3, 1, 1), images)
    return _normalize(_cover(images))


def _normalize(images: Tensor) -> Tensor:
    return (images - MEAN) / DEVIATION


def _chance(count: int, share: float) -> Tensor:
    return torch.rand(count, 1, 1, 1) < share


def _place(
    pixels: Tensor, scale: Tensor, aspect: Tensor, angle: Tensor, across: Tensor, down: Tensor
) -> tuple[Tensor, Tensor]:
    """Colours multiplied by alpha, and alpha, of drawings that are put into an image by an affine map."""
    drawn = pixels.permute(0, 3, 1, 2).float() / 255
    drawn = torch.cat([drawn[:, :3] * drawn[:, 3:], drawn[:, 3:]], 1)
    x, y = 1 / (scale * aspect), aspect / scale
    cosine, sine = torch.cos(angle), torch.sin(angle)
    map_ = torch.stack(
        [
            torch.stack([cosine * x, sine * x, -(cosine * across + sine * down) * x], 1),
            torch.stack([-sine * y, cosine * y, -(-sine * across + cosine * down) * y], 1),
        ],
        1,
    )
    grid = F.affine_grid(map_, [len(drawn), 4, SIDE, SIDE], align_corners=False)
    placed = F.grid_sample(drawn, grid, align_corners=False)
    return placed[:, :3], placed[:, 3:].clamp(0, 1)


def _jitter(colour: Tensor) -> Tensor:
    """Hue, saturation (with none at all now and then), contrast and a cast, other for each drawing."""
    count = len(colour)
    angle = torch.randn(count) * 0.25 * (torch.rand(count) < 0.7)
    cosine, sine = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    # Rodrigues' rotation about the grey axis
    axis = math.sqrt(1 / 3) * torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    matrix = cosine * torch.eye(3) + (1 - cosine) * torch.ones(3, 3) / 3 + sine * axis
    saturation = torch.empty(count).uniform_(0.5, 1.5)
    saturation = torch.where(torch.rand(count) < 0.08, 0, saturation)[:, None, None]
    matrix = matrix @ (saturation * torch.eye(3) + (1 - saturation) * torch.tensor([LUMA] * 3))
    matrix = matrix * torch.empty(count, 1, 1).uniform_(0.8, 1.2)
    cast = torch.empty(count, 3, 1, 1).uniform_(-0.06, 0.06)
    return (torch.einsum("bij,bjhw->bihw", matrix, colour) + cast).clamp(0, 1)


def _backgrounds(count: int) -> Tensor:
    """White, light or now and then dark, sometimes with a gradient: [count, 3, SIDE, SIDE]."""
    kind = torch.rand(count, 1)
    light, dark = 0.7 + 0.3 * torch.rand(count, 3), 0.25 * torch.rand(count, 3)
    colour = torch.where(kind < 0.45, 1.0, torch.where(kind < 0.93, light, dark))[..., None, None]
    strength = torch.rand(count, 1, 1, 1) * _chance(count, 0.2) * 0.4
    ramp = torch.linspace(-0.5, 0.5, SIDE)
    gradient = torch.where(_chance(count, 0.5), ramp[:, None].expand(SIDE, SIDE), ramp.expand(SIDE, SIDE))
    return (colour + strength * gradient).clamp(0, 1)


def _cover(images: Tensor) -> Tensor:
    """Hide a square of the first three in ten, which are in no order (DeVries and Taylor 2017, arXiv 1708.04552)."""
    for image in images[: int(len(images) * 0.3)]:
        side = int(torch.randint(8, 21, ()))
        top, left = torch.randint(0, SIDE - side + 1, (2,)).tolist()
        image[:, top : top + side, left : left + side] = torch.rand(3, 1, 1)
    return images

"""Structural similarity (SSIM) of images.

Wang et al. 2004, "Image quality assessment", section III: Gaussian windows of 11 x 11 pixels and
standard deviation 1.5, K1 = 0.01, K2 = 0.03.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

RADIUS = 5
WINDOW = np.exp(-np.square(np.arange(-RADIUS, RADIUS + 1) / 1.5) / 2)
WINDOW /= WINDOW.sum()
C1, C2 = 0.01**2, 0.03**2


def ssim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SSIM map (..., H - 10, W - 10) of images (..., H, W, C) in 0..1, averaged over channels.

    It has one value for each window that lies within the image.
    """
    mean_x, mean_y = _blur(x), _blur(y)
    cross = mean_x * mean_y
    squares = mean_x**2 + mean_y**2
    luminance = (2 * cross + C1) / (squares + C1)
    structure = (2 * (_blur(x * y) - cross) + C2) / (_blur(x**2 + y**2) - squares + C2)
    return (luminance * structure).mean(-1)


def within(pixels: np.ndarray) -> np.ndarray:
    """Crop (..., H, W) to the pixels that have an `ssim` value."""
    return pixels[..., RADIUS:-RADIUS, RADIUS:-RADIUS]


def _blur(x: np.ndarray) -> np.ndarray:
    for axis in (-3, -2):
        x = sliding_window_view(x, len(WINDOW), axis) @ WINDOW
    return x

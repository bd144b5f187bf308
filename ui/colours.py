"""Two colour maps for pictures of numbers, made so that equal steps of the number look like equal steps.

Both rise evenly in OKLab lightness (B. Ottosson, "A perceptual color space for image processing", 2020) while the hue turns: from
the dark page's background up to pale amber, and from white down to deep indigo.
"""

from __future__ import annotations

import base64

import numpy as np

LEVELS = 256
# Lightness, chroma and hue (degrees) at the ends; chroma swells in between.
DARK = {"lightness": (0.205, 0.95), "hue": (285.0, 450.0), "chroma": (0.006, 0.20, 0.09)}
LIGHT = {"lightness": (0.985, 0.26), "hue": (430.0, 285.0), "chroma": (0.003, 0.19, 0.11)}


def colour_map(lightness: tuple[float, float], hue: tuple[float, float], chroma: tuple[float, float, float]) -> np.ndarray:
    """Return 256 colours, uint8 [256, 3], even in lightness and inside sRGB.

    Parameters
    ----------
    lightness : (float, float)
        OKLab lightness of the first and the last colour, 0 to 1.
    hue : (float, float)
        Hue of the first and the last, in degrees.
    chroma : (float, float, float)
        Colourfulness of the first, the middle and the last colour; lowered where sRGB does not reach it.
    """
    at = np.linspace(0, 1, LEVELS)
    wanted = np.interp(at, [0, 0.55, 1], chroma)
    angle = np.deg2rad(np.interp(at, [0, 1], hue))
    ab = np.stack([np.cos(angle), np.sin(angle)], 1)
    light = np.interp(at, [0, 1], lightness)
    low, high = np.zeros(LEVELS), wanted
    for _ in range(24):  # the largest chroma that sRGB shows, by halving
        middle = (low + high) / 2
        inside = _shown(_linear_rgb(light, middle[:, None] * ab))
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    rgb = np.clip(_linear_rgb(light, low[:, None] * ab), 0, 1)
    coded = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)
    return (coded * 255).round().astype(np.uint8)


def colour_maps() -> dict[str, str]:
    """Return both maps as base64 of 768 bytes, by the name of the page's mode: ``light`` and ``dark``."""
    maps = {"light": LIGHT, "dark": DARK}
    return {mode: base64.b64encode(colour_map(**ends).tobytes()).decode() for mode, ends in maps.items()}


def _linear_rgb(lightness: np.ndarray, ab: np.ndarray) -> np.ndarray:
    """OKLab -> linear sRGB, [n, 3]; the matrices are Ottosson's."""
    lab = np.column_stack([lightness, ab])
    to_lms = np.array([[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]])
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    return (lab @ to_lms.T) ** 3 @ to_rgb.T


def _shown(rgb: np.ndarray) -> np.ndarray:
    return np.all((rgb >= -1e-4) & (rgb <= 1 + 1e-4), axis=1)

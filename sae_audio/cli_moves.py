"""What ``--steer``, ``--feature`` and ``--window`` of the command line say."""

from __future__ import annotations

from collections.abc import Sequence

from sae_audio.control import AXES
from sae_audio.errors import ParameterError
from sae_audio.flow_steering import Window, check_window

WRITTEN = {"pitch": ("semitones", "semitone", "st"), "loudness": ("db",), "brightness": ("octaves", "octave", "oct")}
"""Units that may follow an amount, in small letters."""


def parse_moves(texts: Sequence[str]) -> dict[str, str]:
    """Return the moves of texts such as ``loudness=-6``, ``brightness=+0.5``, ``pitch=C5``, ``pitch=+3``.

    Raises
    ------
    ParameterError
        A text has no ``=``, an unknown property, or a property that was named before.
    """
    moves: dict[str, str] = {}
    for text in texts:
        name, equals, amount = text.partition("=")
        if name not in AXES or not equals or not amount:
            raise ParameterError(
                f"--steer takes PROPERTY=AMOUNT such as loudness=-6, got '{text}'; properties: {', '.join(AXES)}"
            )
        if name in moves:
            raise ParameterError(f"--steer names {name} twice ({moves[name]} and {amount}); give it once")
        moves[name] = without_unit(name, amount)
    return moves


def without_unit(name: str, text: str) -> str:
    """Return an amount for a property without the unit that may end it.

    Examples
    --------
    >>> without_unit("loudness", "-6 dB"), without_unit("pitch", "+3st"), without_unit("pitch", "C5")
    ('-6', '+3', 'C5')
    """
    for unit in WRITTEN[name]:
        if text.lower().endswith(unit):
            return text[: -len(unit)].rstrip()
    return text


def parse_features(texts: Sequence[str]) -> dict[int, float]:
    """Return the strengths of features of texts such as ``42=1.5``.

    Raises
    ------
    ParameterError
        A text is something else, or names a feature that was named before.
    """
    features: dict[int, float] = {}
    for text in texts:
        try:
            index, strength = text.split("=")
            feature, value = int(index), float(strength)
        except ValueError:
            raise ParameterError(f"--feature takes NUMBER=STRENGTH such as 42=1.5, got '{text}'") from None
        if feature in features:
            raise ParameterError(f"--feature names {feature} twice ({features[feature]:g} and {value:g}); give it once")
        features[feature] = value
    return features


def parse_window(text: str) -> Window:
    """Return the window of ``FROM:TO``, flow times with 0 <= FROM < TO <= 1.

    Raises
    ------
    ParameterError
        The text is something else.

    Examples
    --------
    >>> parse_window("0.3:0.7")
    (0.3, 0.7)
    """
    try:
        first, stop = (float(part) for part in text.split(":"))
    except ValueError:
        raise ParameterError(f"window '{text}' is not FROM:TO in flow time, such as 0.3:0.7 (0 is noise, 1 the result)") from None
    return check_window((first, stop))

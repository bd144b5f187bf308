"""What a visitor asks of the Steer tab: one value, to and from JSON, and what ``steer`` makes of it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sae_audio.bundle import Bundle
from sae_audio.control import AXES, ControlVector
from sae_audio.errors import ParameterError
from sae_audio.moves import feature_control
from sae_audio.pipeline import Edit
from sae_audio.pushes import MODES, Push, push_control
from sae_audio.units import parse_note

KIND = "sae_audio steer settings, format 1"
AS_PLAYED = "as played"
NOTHING = "none"
FEATURE = re.compile(r"\s*(\d{1,7})\s*[=:×x]?\s*([+\-−]?\d+(?:\.\d+)?)\s*")
LARGEST = 1000.0


class Ask(NamedTuple):
    """All that can be set in the tab; the defaults ask for nothing."""

    semitones: float = 0.0
    """Whole semitones up or down."""
    note: str = AS_PLAYED
    """Note that every pitched frame moves to; it wins over ``semitones``."""
    loudness: float = 0.0
    """dB."""
    brightness: float = 0.0
    """Octaves of spectral centroid."""
    start: float = 0.0
    """Start of the edited part, in seconds."""
    stop: float = 0.0
    """End of the edited part, in seconds; 0 is the end of the sound."""
    fade: float = 0.0
    """Seconds over which the change comes in and goes out."""
    feature: int = 0
    """A single feature."""
    amount: float = 0.0
    """How many times its typical activation is added; negative takes away."""
    more_features: str = ""
    """Further features: ``7=-1, 12=2``."""
    push: str = NOTHING
    """Property that is pushed by a strength, or ``none``."""
    target: str = ""
    """Class that it is pushed to."""
    strength: float = 0.0
    """α."""
    mode: str = MODES[0]
    """``honest`` or ``paper``."""
    orthogonal: bool = False
    """Without what the direction shares with the other properties."""
    hold: bool = True
    """Measure the result and correct it."""

    @property
    def moves(self) -> dict:
        """What ``steer`` takes as moves."""
        pitch = self.semitones if self.note == AS_PLAYED else self.note
        moves = {"pitch": pitch, "loudness": self.loudness, "brightness": self.brightness}
        return {name: value for name, value in moves.items() if value}

    @property
    def features(self) -> dict[int, float]:
        """What ``steer`` takes as features."""
        found = parse_features(self.more_features)
        if self.amount:
            found[int(self.feature)] = found.get(int(self.feature), 0.0) + float(self.amount)
        return found

    @property
    def pushes(self) -> list[Push]:
        """What ``steer`` takes as pushes."""
        if self.push == NOTHING or not self.strength:
            return []
        if not self.target:
            raise ParameterError(f"choose the class that {self.push} is pushed towards")
        return [Push(self.push, self.target, float(self.strength), self.mode, bool(self.orthogonal))]

    @property
    def edit(self) -> Edit:
        """What ``steering`` takes."""
        span = (float(self.start), float(self.stop) or None, float(self.fade))
        return Edit(self.moves, self.features, self.pushes, *span, bool(self.hold))

    @property
    def open_ended(self) -> frozenset[str]:
        """Properties that were asked for without an amount: whatever single features or strengths move."""
        if self.features:
            return frozenset(AXES) - self.moves.keys()
        return frozenset(push.property for push in self.pushes)

    def controls(self, bundle: Bundle) -> dict[str, ControlVector]:
        """Return the control vectors in use, by name."""
        used = {name: bundle.controls[name] for name in self.moves}
        used |= {f"feature {feature}": feature_control(bundle, feature) for feature in self.features}
        return used | {f"{push.property}, {push.mode}": push_control(bundle, push) for push in self.pushes}


def parse_features(text: str | None) -> dict[int, float]:
    """Return features and strengths of a text such as ``42=1.5, 7=-1``.

    Raises
    ------
    ParameterError
        A part is not a feature number and a strength.
    """
    found: dict[int, float] = {}
    for part in re.split(r"[,;\n]", text or ""):
        if not part.strip():
            continue
        match = FEATURE.fullmatch(part)
        if not match:
            raise ParameterError(f"'{part.strip()[:40]}' is not a feature with a strength; write them like 42=1.5, 7=-1")
        feature, strength = int(match[1]), float(match[2].replace("−", "-"))
        if abs(strength) > LARGEST:
            raise ParameterError(f"feature {feature} has strength {strength:g}; the limit is {LARGEST:g}")
        found[feature] = found.get(feature, 0.0) + strength
    return found


def to_json(ask: Ask, about: Mapping[str, str | None]) -> str:
    """Return settings as JSON that ``from_json`` reads back; ``about`` (sound, bundle, revision) is for people."""
    return json.dumps({"kind": KIND, **about, "settings": ask._asdict()}, indent=2, ensure_ascii=False) + "\n"


def from_json(path: str | Path) -> Ask:
    """Read the settings that the tab exported.

    Raises
    ------
    ParameterError
        The file is something else, or a value in it cannot be used; it is named.
    """
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        if stored["kind"] != KIND:
            raise ValueError
        settings = dict(stored["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ParameterError(
            f"'{Path(path).name}' holds no settings of this tab; choose a JSON file that its Settings button saved"
        ) from None
    if unknown := sorted(set(settings) - set(Ask._fields)):
        raise ParameterError(f"the settings name {unknown[0][:40]}, which this version does not know; save them again")
    return checked(Ask(**settings))


def checked(ask: Ask) -> Ask:
    """Return settings whose values are of the right kind; ``ParameterError`` names the first that is not."""
    for name, value in ask._asdict().items():
        usual = Ask._field_defaults[name]
        if isinstance(usual, bool):
            right = isinstance(value, bool)
        elif isinstance(usual, str):
            right = isinstance(value, str) and len(value) <= 1000
        else:
            right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not right:
            raise ParameterError(f"the setting '{name}' is {str(value)[:40]!r}, which it cannot be; save the settings again")
    if ask.note != AS_PLAYED:
        parse_note(ask.note)
    parse_features(ask.more_features)
    return ask

"""What an SAE computes and what it is penalised for, as values that are checked once and kept with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from sae_audio.errors import ParameterError

NEEDS_K = ("topk", "batch_topk", "matryoshka")
MOST_FEATURES = 2**20
"""A slip of the finger beyond it would fill the memory before anything said so."""


@dataclass(frozen=True)
class SAEConfig:
    """Everything that decides what an SAE computes and what it is penalised for; fields a variant does not name are ignored."""

    variant: str
    """A key of ``sae_audio.sae.VARIANTS``."""
    d_in: int
    """Channels of one latent frame."""
    d_sae: int
    """Number of features."""
    k: int | None = None
    """Active features per frame: exactly (``topk``), on average (``batch_topk``, ``matryoshka``), or the l0 that training aims
    at (``jumprelu``; None there: plain ``l0_coefficient * l0``)."""
    l1_coefficient: float = 0.05
    """λ of λ·mean‖a‖₁ (``relu``, ``relu_rmsnorm``); the other term is the mean over frames of ‖x̃−x̂‖²."""
    l1_on: str = "pre"
    """``relu_rmsnorm``: L1 on the activations before the RMSNorm (``pre``, as published) or after it (``post``)."""
    l0_coefficient: float = 1.0
    """λ of λ·d_in·(l0/k − 1)², or of λ·l0 where k is None (``jumprelu``)."""
    bandwidth: float = 0.1
    """Width of the window in which a pre-activation moves the threshold (``jumprelu``), in units of x̃."""
    prefixes: tuple[int, ...] | None = None
    """Ascending nested dictionary sizes, the last one ``d_sae`` (``matryoshka``); None: d_sae/16, /8, /4, /2, /1."""
    aux_coefficient: float = 1 / 32
    """Weight of AuxK, which lets dead features explain what the live ones leave over; 0 turns it off."""
    k_aux: int | None = None
    """Dead features used per frame by AuxK; None: d_in / 2."""
    dead_after: int = 100_000
    """Frames without firing after which a feature counts as dead."""
    decoder_bias: bool = True
    """False keeps b_dec at zero (paper B, arXiv 2509.24793)."""

    def __post_init__(self) -> None:
        for name in ("d_in", "dead_after"):
            self._check_count(name)
        self._check_count("d_sae", MOST_FEATURES)
        if self.variant in NEEDS_K or self.k is not None:
            self._check_count("k", self.d_sae)
        if self.k_aux is not None:
            self._check_count("k_aux", self.d_sae)
        if self.prefixes is not None:
            self._check_prefixes(self.prefixes)
        if self.l1_on not in ("pre", "post"):
            raise ParameterError(f"SAEConfig.l1_on is {self.l1_on!r}; it is 'pre' or 'post'")
        for name in ("l1_coefficient", "l0_coefficient", "aux_coefficient"):
            if not getattr(self, name) >= 0:
                raise ParameterError(f"SAEConfig.{name} is {getattr(self, name)}; it must be 0 or more")
        if not self.bandwidth > 0:
            raise ParameterError(f"SAEConfig.bandwidth is {self.bandwidth}; it must be above 0")

    def _check_count(self, name: str, most: int | None = None) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
            limit = "at least 1" if most is None else f"from 1 to {'' if name == 'd_sae' else 'd_sae = '}{most}"
            raise ParameterError(f"SAEConfig.{name} is {value!r} for '{self.variant}'; it must be a whole number {limit}")

    def _check_prefixes(self, prefixes: Sequence[int]) -> None:
        object.__setattr__(self, "prefixes", tuple(prefixes))
        rising = all(a < b for a, b in zip((0, *prefixes), prefixes, strict=False))
        if not prefixes or not rising or prefixes[-1] != self.d_sae:
            raise ParameterError(f"SAEConfig.prefixes is {self.prefixes}; it must ascend from 1 and end at d_sae = {self.d_sae}")

    @property
    def n_active(self) -> int:
        """``k`` of a variant that needs one."""
        assert self.k is not None, "checked in __post_init__"
        return self.k

    def to_dict(self) -> dict:
        """Return a JSON-ready dictionary; ``from_dict`` reads it back."""
        values = asdict(self)
        return values | {"prefixes": None if self.prefixes is None else list(self.prefixes)}

    @classmethod
    def from_dict(cls, values: dict) -> SAEConfig:
        """Build a config from a dictionary; an unknown or missing key raises ``ParameterError`` and is named."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ParameterError(f"SAE config has unknown keys: {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        if missing := sorted({"variant", "d_in", "d_sae"} - set(values)):
            raise ParameterError(f"SAE config lacks: {', '.join(missing)}")
        return cls(**values)

"""ZeroGPU: ``@gpu(duration=seconds)`` around a function that runs a model; anywhere else it changes nothing."""

from __future__ import annotations

from collections.abc import Callable

try:
    from spaces import GPU as gpu
except ImportError:

    def gpu(**_: object) -> Callable[[Callable], Callable]:
        """Return a decorator that changes nothing: there is no ZeroGPU here."""
        return lambda function: function


__all__ = ["gpu"]

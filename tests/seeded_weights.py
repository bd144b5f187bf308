"""Deterministic random weights from a tensor's name and shape alone.

Lets a parity file carry inputs and outputs only: whoever holds the key list can rebuild the exact state dict.

    state = {key: seeded_tensor(key, shape) for key, shape in shapes.items()}

The values depend on nothing but `key`, `shape` and NumPy's PCG64 stream, so they are the same on every machine.
"""

import math
import zlib

import numpy as np


def seeded_tensor(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 array of `shape`; scale chosen by what the name says the tensor is (norm gain, bias, matrix, ...)."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    noise = rng.standard_normal(shape).astype(np.float32)
    leaf, parent = key.split(".")[-1], key.split(".")[-2] if "." in key else ""
    is_norm = "norm" in parent or parent == "scale" or "layernorm" in key or key.endswith("pos_net.5.weight")
    if leaf == "inited":
        return np.ones(shape, np.float32)
    if leaf == "cluster_size":
        return np.full(shape, 5.0, np.float32)
    if leaf == "weight_g":  # gain of a weight-normalised convolution: output variance near the input's
        return np.full(shape, 1.6, np.float32) * (1 + 0.05 * noise)
    if leaf == "gamma" and ".grn." not in key:
        return 0.2 + 0.05 * noise
    if ".grn." in key:
        return 0.3 * noise
    if leaf == "bias" or parent == "shift":
        return (0.01 if "encodec" in key else 0.05) * noise
    if is_norm and leaf == "weight":
        return 1 + 0.1 * noise
    if "text_fusion_linears" in key:
        return 0.05 * noise
    if leaf in {"embed", "embed_avg"} and "_codebook" in key:
        return 0.3 * noise
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else shape[0]
    return noise / math.sqrt(max(fan_in, 1))

"""The state of a training run on disk: one safetensors file, replaced atomically, and the history as JSON lines.

After a kill at any moment ``training.safetensors`` is a whole checkpoint, the newest that was finished. ``history.jsonl`` may
hold rows of later steps, or half a row; resuming drops them.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sae_audio.errors import DataError, ParameterError
from sae_audio.files import write_bytes
from sae_audio.sae import SAE

STATE = "training.safetensors"
HISTORY = "history.jsonl"
MOMENTS = {"step", "exp_avg", "exp_avg_sq"}
"""What Adam keeps of every parameter."""


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state as named tensors, ``adam.<parameter>.<moment>``."""
    state = optimiser.state_dict()["state"]
    return {f"adam.{number}.{name}": value for number, values in state.items() for name, value in values.items()}


def save_checkpoint(folder: Path, sae: SAE, optimiser: torch.optim.Optimizer, since: Tensor, about: dict) -> None:
    """Write the whole training state.

    Parameters
    ----------
    folder : Path
        Where ``training.safetensors`` goes; the file appears whole or not at all.
    sae, optimiser
        What is being trained.
    since : Tensor [d_sae]
        Frames since each feature last fired.
    about : dict
        ``step`` and the settings that a resumed run must share; JSON-ready.
    """
    tensors = {f"sae.{name}": value for name, value in sae.state_dict().items()} | optimiser_tensors(optimiser)
    tensors = {name: value.detach().cpu().contiguous() for name, value in (tensors | {"since": since}).items()}
    # One key: safetensors writes several in an order that changes from run to run.
    content = save(tensors, metadata={"about": json.dumps(about, sort_keys=True)})
    write_bytes(folder / STATE, content, alone=True)


def load_checkpoint(folder: Path, sae: SAE, optimiser: torch.optim.Optimizer, since: Tensor, settings: dict) -> int:
    """Restore the training state in place and return the number of finished steps; 0 where there is no checkpoint.

    Raises
    ------
    ParameterError
        The checkpoint was made with other settings; the message names the first that differs.
    DataError
        It is damaged.
    """
    if not (folder / STATE).exists():
        return 0
    try:
        with safe_open(folder / STATE, "pt") as file:
            about = json.loads(file.metadata()["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, a safe_open handle is no mapping
        check_settings(folder, about, settings)
        _restore(tensors, sae, optimiser, since)
        return int(about["step"])
    except ParameterError:
        raise
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{folder / STATE} is damaged ({said[:200]}); delete it, and the run starts again") from error


def _restore(tensors: dict[str, Tensor], sae: SAE, optimiser: torch.optim.Optimizer, since: Tensor) -> None:
    sae.load_state_dict({name[4:]: value for name, value in tensors.items() if name.startswith("sae.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("adam."):
            _, number, moment = name.split(".")
            state.setdefault(int(number), {})[moment] = value
    learned = range(sum(len(group["params"]) for group in optimiser.param_groups))
    if sorted(state) != list(learned) or any(values.keys() != MOMENTS for values in state.values()):
        raise ValueError("the optimiser's state is not that of this SAE")
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
    since.copy_(tensors["since"])


def check_settings(folder: Path, saved: dict, wanted: dict) -> None:
    """Raise ``ParameterError`` unless a checkpoint's settings are those of the run that wants to resume it."""
    for group, values in wanted.items():
        for name, value in values.items():
            if saved[group].get(name) != value:
                raise ParameterError(
                    f"cannot resume {folder}: it was trained with {group} {name} = {saved[group].get(name)}, not {value}; "
                    "use the same settings, or leave --resume out to begin again"
                )

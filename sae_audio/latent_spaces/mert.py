"""MERT (Li et al., arXiv 2306.00107): HuBERT on music at 24 kHz, in checkpoints whose class transformers lacks.

A checkpoint whose configuration adds nothing to HuBERT is loaded into ``HubertModel``, tensor by tensor; none of the code that
comes with it runs. Three parts can be added: a constant-Q branch (``feature_extractor_cqt``), relaxed attention
(``attention_relax``) and ``deepnorm``. For those, the checkpoint's own code is needed, and runs only on the user's word.
``m-a-p/MERT-v1-95M`` adds none; ``m-a-p/MERT-v1-330M`` states ``attention_relax`` 32, although its code looks at it only where
``deepnorm`` is set, which it is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MethodType

from torch import nn

from sae_audio.errors import LatentSpaceError
from sae_audio.latent_spaces.loading import pretrained, read_config

MASK_EMBEDDING = r"masked_spec_embed$"
"""The tensor that covers what a model in training has to guess."""


def load_mert(folder: str | Path, trust_remote_code: bool = False) -> nn.Module:
    """Load a MERT checkpoint in its public layout.

    Parameters
    ----------
    folder : str or Path
        With ``config.json``, the weights, and where it is needed the code that ``auto_map`` names.
    trust_remote_code : bool
        Run that code if HuBERT is not enough. Where it is enough, no code runs in any case.

    Returns
    -------
    HubertModel
        Or a subclass that the checkpoint's code defines; in evaluation mode, without gradients.

    Raises
    ------
    LatentSpaceError
        The checkpoint needs its own code and may not run it, or does not fit.
    """
    values = read_config(folder)
    added = _added(values)
    if not added:
        return _load_hubert(folder, values)
    if not trust_remote_code:
        raise LatentSpaceError(
            f"{folder} is a MERT with {' and '.join(added)}, which transformers' HuBERT lacks; it needs the Python code that "
            "comes with it. Read that code, then pass trust_remote_code=True (--trust-remote-code), with revision=<full commit> "
            "if it comes from the Hub"
        )
    return _load_own(folder, values)


def _added(values: Mapping) -> list[str]:
    """Name what a MERT configuration adds to HuBERT."""
    added = [name for name in ("feature_extractor_cqt", "deepnorm") if values.get(name)]
    relax = values.get("attention_relax") or -1
    return [*added, f"attention_relax {relax:g}"] if relax > 0 else added


def _load_hubert(folder: str | Path, values: Mapping) -> nn.Module:
    from transformers import HubertConfig, HubertModel

    kept = {key: value for key, value in values.items() if key not in ("auto_map", "architectures", "model_type")}
    config = HubertConfig(**{**kept, "mask_time_prob": 0.0, "mask_feature_prob": 0.0})
    return pretrained(HubertModel, folder, ignored=MASK_EMBEDDING, config=config)


def _load_own(folder: str | Path, values: Mapping) -> nn.Module:
    """Load a checkpoint through its own code, which is in its own folder and extends HuBERT."""
    from transformers import AutoModel
    from transformers.models.hubert.modeling_hubert import HubertPreTrainedModel
    from transformers.utils.output_capturing import capture_outputs

    code = values.get("auto_map") or {}
    if elsewhere := [name for name in code.values() if "--" in str(name)]:
        raise LatentSpaceError(
            f"{folder} takes its code from another repository, whose commit is not pinned: {elsewhere[0]}; put that code beside "
            "the weights and remove what stands before '--' in auto_map"
        )
    model = pretrained(AutoModel, folder, trust_remote_code=True)
    if not isinstance(model, HubertPreTrainedModel):
        raise LatentSpaceError(f"the code of {folder} defines {type(model).__name__}, which does not extend HuBERT")
    # Written for transformers 4, the public forward gets no hidden states from the blocks of version 5 on.
    model.forward = MethodType(capture_outputs(tie_last_hidden_states=False)(type(model).forward), model)
    return model

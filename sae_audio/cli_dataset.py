"""The options of every command that learns from, or is scored on, a data set on the Hub."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sae_audio.errors import ParameterError

if TYPE_CHECKING:
    from sae_audio.activations import HubDataset

DETAILS = ("split", "audio_column", "group_column", "dataset_config", "dataset_revision", "limit")
"""Options that mean nothing without --dataset."""


def add_dataset_options(parser: argparse._ActionsContainer, split: str = "default: train") -> None:
    """Add --dataset and its details to a parser or a group of one; ``split`` says what holds where --split is not given."""
    parser.add_argument("--dataset", metavar="USER/NAME", help="data set on the Hub, streamed (needs: pip install datasets)")
    parser.add_argument("--split", metavar="NAME", help=f"split of the data set that is taken ({split})")
    parser.add_argument("--audio-column", metavar="NAME", help="its column of sound (default: audio)")
    parser.add_argument("--group-column", metavar="NAME", help="column of a speaker or song: no group is in two splits")
    parser.add_argument("--dataset-config", metavar="NAME", help="its configuration, where it has several")
    parser.add_argument("--dataset-revision", metavar="R", help="its branch, tag or commit (default: the newest)")
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N recordings")


def dataset_of(
    arguments: argparse.Namespace, *, seed: int = 0, max_minutes: float, split: str | None = "train"
) -> HubDataset | None:
    """List the data set that was asked for, None where none was.

    Parameters
    ----------
    arguments : Namespace
        Holds ``audio`` and what ``add_dataset_options`` adds.
    seed : int
        Of the split by group.
    max_minutes : float
        Longer recordings are skipped, in minutes.
    split : str, optional
        Taken where --split is not given; None: it must be.

    Raises
    ------
    ParameterError
        There is --audio beside it, a detail without it, or no --split where there must be one.
    DataError, HubError
        See ``activations.dataset_sources``.
    """
    if arguments.dataset is None:
        for name in DETAILS:
            if getattr(arguments, name) is not None:
                raise ParameterError(f"--{name.replace('_', '-')} belongs to a data set; give --dataset USER/NAME too")
        return None
    if arguments.audio:
        raise ParameterError("--audio and --dataset are two sources of sound; give one of them")
    split = arguments.split or split
    if split is None:
        raise ParameterError("--dataset needs --split NAME here, such as test: one that the bundle was not trained on")
    from sae_audio.activations import dataset_sources

    return dataset_sources(
        arguments.dataset,
        split=split,
        column=arguments.audio_column or "audio",
        config=arguments.dataset_config,
        revision=arguments.dataset_revision,
        group_column=arguments.group_column,
        limit=arguments.limit,
        seed=seed,
        max_minutes=max_minutes,
    )

"""What a visitor is told when something fails: our own errors as they are, anything else in one plain sentence."""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gradio as gr

from sae_audio.errors import SaeAudioError

UNEXPECTED = "Something went wrong here, and it is not your sound's fault alone. Try again, or try another sound or setting."
SERVER_PATH = re.compile(r"(?<=')/[^']*/(?=[^'/]+')")
"""Folder of a quoted absolute path: a visitor knows the name of the file, and the rest is not theirs to know."""
FOR_THE_COMMAND_LINE = ", or raise --max-minutes"


def plainly(function: Callable) -> Callable:
    """Decorate an event handler (a function or a generator) so that whatever it raises reaches the visitor in words."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def guarded(*args, **kwargs):
            with in_words():
                yield from function(*args, **kwargs)
    else:

        @functools.wraps(function)
        def guarded(*args, **kwargs):
            with in_words():
                return function(*args, **kwargs)

    return guarded


@contextmanager
def in_words() -> Iterator[None]:
    """Turn what a block raises into ``gr.Error`` of one line; what is not ours goes to the server's log in full."""
    try:
        yield
    except gr.Error:
        raise
    except SaeAudioError as error:
        raise gr.Error(said(error), print_exception=False) from None
    except Exception:
        logging.getLogger(__name__).exception("an event failed")
        raise gr.Error(UNEXPECTED, print_exception=False) from None


def said(error: Exception) -> str:
    """Return an error's message without the server's folders and without remedies of the command line."""
    text = " ".join(str(error).split()).replace(FOR_THE_COMMAND_LINE, "")
    return SERVER_PATH.sub("", text)

"""How every program of the project meets its user: errors of one line, and exit codes.

Exit codes: 0 done, 2 something a user can fix (one line on stderr), 1 our fault (traceback with ``--debug``), 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from typing import Any, NoReturn

from sae_audio.errors import SaeAudioError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and which takes ``-6dB`` for a value as it does ``-6``."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._negative_number_matcher = re.compile(r"^-\.?\d")

    def error(self, message: str) -> NoReturn:
        """Print the message and where help is, and exit with 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> object:
        """Refuse ``--steps=--``, which Python before 3.13 takes for an empty list."""
        if action.option_strings and action.nargs is None and arg_strings == ["--"]:
            raise argparse.ArgumentError(action, "'--' is no value")
        return super()._get_values(action, arg_strings)


class Command(Parser):
    """The parser of one command of several: what it does not know it refuses itself, so that its own help is named."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the options; there is never anything left over."""
        found, stray = super().parse_known_args(args, namespace)
        if stray:
            self.error(f"unrecognized arguments: {' '.join(stray)}")
        return found, stray


def number(low: float, high: float, kind: type = float) -> Callable[[str], float]:
    """Return what ``add_argument`` takes as ``type`` for a number of ``kind`` (int or float) from ``low`` to ``high``."""

    def read(text: str) -> float:
        with suppress(ValueError):
            if low <= (value := kind(text)) <= high:
                return value
        whole = "whole " if kind is int else ""
        raise argparse.ArgumentTypeError(f"'{text}' is no {whole}number from {low:g} to {high:g}")

    return read


def guarded(run: Callable[[], None], debug: bool) -> int:
    """Run a command and turn what it raises into an exit code and one line on stderr."""
    if not sys.stderr.isatty():  # nobody watches a bar in a log; read when the client is first imported
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a notebook has others
            stream.reconfigure(errors="backslashreplace")  # a file's name may hold what the terminal cannot show
    warnings.showwarning = lambda message, *_: _say(f"warning: {message}")
    try:
        run()
    except SaeAudioError as error:
        _say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        sys.stderr.close()
        return 0
    except OSError as error:  # a path that the system refuses to look at, a disk that is full
        if debug:
            traceback.print_exc()
        where = "" if error.filename is None else f"'{error.filename}': "
        _say(f"error: {where}{error.strerror or error}; check the path, its permissions and the space left")
        return 2
    except Exception as error:
        if debug:
            traceback.print_exc()
        _say(f"internal error: {type(error).__name__}: {error} (run again with --debug and report it)")
        return 1
    return 0


def _say(line: str) -> None:
    """Print one line on stderr, whatever the names in it hold."""
    sys.stderr.write(" ".join(line.splitlines()) + "\n")

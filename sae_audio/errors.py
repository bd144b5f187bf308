"""Error classes. Each message names the value, the limit and the remedy; the CLI prints it on one line and exits with 2."""


class SaeAudioError(Exception):
    """Something a user can fix. Every error that this package raises on purpose is one of these."""


class ParameterError(SaeAudioError, ValueError):
    """An argument is outside its range, or two arguments contradict each other."""


class AudioError(SaeAudioError):
    """A sound file cannot be read, written or used: not audio, too short, too long, silent where sound is needed."""


class LatentSpaceError(SaeAudioError):
    """A latent space is unknown, its checkpoint is missing or does not fit, or it cannot do what was asked."""


class DataError(SaeAudioError):
    """A corpus, a folder of audio or an activation store cannot be used."""


class BundleError(SaeAudioError):
    """A bundle is missing, damaged, foreign or of an unknown format version."""


class HubError(SaeAudioError):
    """The Hub refused, could not be reached, or holds something else than was expected."""


class OutputError(SaeAudioError):
    """A file cannot be written: its folder is missing or protected, or the disk is full. Nothing half-written is left."""


def one_line(error: object) -> str:
    """Return an error's text on one line."""
    return " ".join(str(error).split())

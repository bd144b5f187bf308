"""What is refused before it is uploaded, in our words: a video, or a file that is too large.

Gradio's own control would list the names of audio formats, and would refuse sound whose format the browser does not know. So all
but videos is sent as sound, and the server says what is wrong with it.

    refusals = upload_refusals("bring")                  # of the gr.Audio with this elem_id
    refusals.refuse(refused, None, None)                 # says it
"""

from __future__ import annotations

import gradio as gr

from sae_audio.errors import AudioError
from ui.component import component
from ui.guard import plainly
from ui.limits import MAX_MB

MEGABYTE = 1024**2
"""As Gradio counts it."""
KINDS = "WAV, FLAC, OGG, MP3 or AIFF"


def upload_refusals(elem_id: str) -> gr.HTML:
    """Return the component, which is not seen."""
    return component("refusals", {"of": elem_id, "most": MAX_MB * MEGABYTE}, elem_id=f"{elem_id}-refusals")


@plainly
def refused(event: gr.EventData) -> None:
    """Say why a file was not sent."""
    name, size = str(event.name)[:80], float(event.size) / MEGABYTE
    if event.video:
        raise AudioError(f"'{name}' is a video; bring its sound as {KINDS}")
    raise AudioError(f"'{name}' has {size:.0f} MB; the limit is {MAX_MB} MB: cut it, or save it as FLAC or MP3")

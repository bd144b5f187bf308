"""The Hugging Face Hub: ``push`` publishes a bundle's folder as one commit, ``pull`` fetches and checks one.

Nothing here knows what the files of a bundle mean; this package and the loading of public checkpoints are all that talks to the
Hub. ``client`` is how: what is tried again, and errors in one line with the next step.
"""

from sae_audio.hub.fetch import pull
from sae_audio.hub.publish import Published, check_push, push, push_command

__all__ = ["Published", "check_push", "pull", "push", "push_command"]

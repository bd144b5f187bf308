"""The Hugging Face Hub: ``push`` publishes a bundle's folder as one commit, ``pull`` fetches and checks one.

Nothing here knows what the files of a bundle mean. How the Hub is talked to, what is tried again and what its errors mean is in
``hub_client``.
"""

from sae_audio.hub.fetch import pull
from sae_audio.hub.publish import Published, check_address, check_publish, push, push_command

__all__ = ["Published", "check_address", "check_publish", "pull", "push", "push_command"]

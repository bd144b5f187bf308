"""``python -m sae_audio``: the command line."""

from sae_audio.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

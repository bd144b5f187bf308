"""DiffRhythm (arXiv 2503.01183): a diffusion transformer over audio latents, its sampler and its checkpoints."""

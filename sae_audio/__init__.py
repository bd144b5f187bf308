"""Sparse autoencoders for audio latent spaces: train, publish, listen, steer."""

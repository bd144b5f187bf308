"""The small models that this project trains itself, and the music it synthesises to train them on."""

"""Random numbers: the generator, the laws, the draws. Private."""

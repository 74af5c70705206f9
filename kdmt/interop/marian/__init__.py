"""Models of Marian and of Bergamot, the engine of Firefox: their files, and conversion from and to checkpoints."""

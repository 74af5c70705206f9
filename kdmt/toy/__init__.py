"""The toy corpus: a small artificial language pair with the exact distribution of its translations."""

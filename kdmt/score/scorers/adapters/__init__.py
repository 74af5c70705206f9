"""Commands that connect metrics and quality estimation models to the protocol of `kdmt.score.scorers`.

Each runs in the environment of its model, so it imports only the standard library, `serving` and the library of the
model; only `boostedprob`, for models of kdmt, imports other modules of kdmt.
"""

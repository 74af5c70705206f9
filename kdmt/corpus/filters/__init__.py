"""Filters that compute a score for each pair of a training corpus and drop the pairs with the lowest scores.

A filter (`scored_filter`) sees the text of all corpora after all other cleaning rules. `table` has the filters by name;
their settings are in `kdmt.config.rules`.
"""

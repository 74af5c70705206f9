"""Cleaning rules that look at one pair of lines at a time.

A rule is a small class with a `name`. One that changes lines has `edit(line)`, and one that drops pairs has
`breaks(pair)`. `table` has all of them by name, in the order in which they are applied. The settings of the rules are
in `kdmt.config.rules`.
"""

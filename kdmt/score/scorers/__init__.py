"""External scorers: one protocol for metrics, quality estimation models and filters in processes of their own.

segments.py     segments, and scores of many segments: the entry point for other packages
process.py      the process, its messages, restarts
cache.py        scores by content, kept across runs
adapters/       scorers that can be run as commands, in environments of their own
"""

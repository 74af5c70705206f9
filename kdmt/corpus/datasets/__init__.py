"""Published data sets by name: what `mtdata: ID`, `opus: NAME/VERSION` and the other names in a pipeline mean."""

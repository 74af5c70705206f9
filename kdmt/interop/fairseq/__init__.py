"""fairseq's checkpoints, data and flags, in and out.

`pickles` reads its checkpoint files without running anything in them, `architectures` their settings, `states` their
weights; `languages` is what its multilingual task makes of dictionaries; `checkpoints` puts these together. `data_bin`
reads its data, `flags` the command line of its fairseq-generate, `output` writes that one's lines.
"""

"""Import and export of fairseq's checkpoints, data and command-line flags.

`pickles` and `names` read fairseq's checkpoint files without running code in them. `architectures` converts the
settings in a checkpoint, `states` converts the weights, and `language_tokens` determines the tokens that fairseq's
multilingual task adds to dictionaries and sentences. `multilingual` relates this task to models of kdmt with several
directions; `checkpoints` combines these modules. `data_bin` reads fairseq's data, `flags` parses the command line of
fairseq-generate, and `output` formats the lines that fairseq-generate writes.
"""

"""The stages of a pipeline. Each has a light module that plans it and a heavy one that does the work.

pipeline.py                             construction of all stages, and the commands that run them
workspace.py                            settings, folders and ranks of one pipeline
prepare.py, prepare_work.py             corpora to clean text, tokenizer, dictionaries and data-bin
preparation.py, prepare_*.py            parts of that work: cleaning, held-out text, processing, tokenizer, data-bin
prepare_data_bin.py                     data-bin of fairseq in place of corpora
training.py, training_work.py           teacher and students
distill.py, distill_work.py             training sets
knowledge.py, knowledge_work.py         knowledge caches
score.py, score_work.py                 scores of all systems
followers.py                            ranks that follow the first one from stage to stage
given_checkpoints.py, measures.py, references.py, training_inputs.py    code that several stages share for their plans

To add a stage, write its module, add it to `pipeline.build_stages`, and add a command if it needs one.
"""

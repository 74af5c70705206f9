"""The stages of a pipeline. Each has a light module that plans it and a heavy one that does the work.

pipeline.py                             all stages put together, and the commands that run them
workspace.py                            one pipeline on one disk: settings, folders, ranks
prepare.py, prepare_work.py             corpora to clean text, tokenizer, dictionaries and data-bin
prepare_data_bin.py                     a data-bin of fairseq in place of corpora
training.py, training_work.py           teacher and students
distill.py, distill_work.py             training sets
knowledge.py, knowledge_work.py         the knowledge cache
score.py, score_work.py                 scores of all systems
followers.py                            ranks that follow the first one from stage to stage
given_checkpoints.py, measures.py, references.py, training_inputs.py    what several stages need for their plans

To add a stage, write its module, name it in `pipeline.build_stages`, and give it a command if it needs one.
"""

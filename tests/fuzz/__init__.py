"""Generated hostile inputs for the command line: `python -m fuzz --seed 1 --only corpora:17` repeats one of them.

case.py       what one input is: damaged files and the commands that are given them
damage.py     damage to bytes, text, JSON and paths, as disks, networks, editors and attackers do it
formats.py    damage to tensors, arrays, pickles and archives; checksums rewritten to fit
world.py      what is damaged: a finished pipeline, exported models, a Hugging Face folder, fairseq's files
kinds/        one module a kind of input
server.py     runs a command in a forked child, with limits
verdict.py    what is wrong with the way in which a command ended
runner.py     all inputs, one after the other
"""

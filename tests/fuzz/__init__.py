"""Generated hostile inputs for the command line: `python -m fuzz --seed 1 --only corpora:17` repeats one of them.

case.py       one input: damaged files and the commands that read them
damage.py     damage to bytes, text, JSON and paths, as caused by disks, networks, editors and attackers
formats.py    damage to tensors, arrays, pickles and archives; rewritten checksums
world.py      the files to damage: a finished pipeline, exported models, a Hugging Face folder, fairseq's files
kinds/        one module for each kind of input
server.py     runs a command in a forked child process, with limits
verdict.py    the faults in how a command ended
runner.py     runs all inputs, one after the other
"""

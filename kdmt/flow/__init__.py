"""The stage runner: a small engine like make, which decides by content and keeps earlier states.

stage.py        Stage, and the rule that decides when stages run
manifest.py     plans and manifests: what a stage was made from, whether it is up to date
folders.py      stage folders on disk, symbolic links, earlier states
shards.py       stages that several commands make together
circles.py      settings by which a stage would be made from itself
layout.py       where the files of a pipeline are
progress.py     progress on a terminal and in the log

The package does not depend on particular stages, and loads neither torch nor a model.
"""

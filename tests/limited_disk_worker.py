"""Run commands of kdmt in the current folder with a limit on the disk, the size of a file or the number of open files.

    python tests/limited_disk_worker.py LIMIT < COMMANDS.json > RESULTS.json

LIMIT is `disk` (set by the caller), `size:BYTES` or `files:COUNT`; COMMANDS are lists of arguments; RESULTS are pairs
[exit code, standard error].
"""

from __future__ import annotations

import json
import resource
import sys

import tiny_pipeline


def main() -> None:
    commands = json.load(sys.stdin)
    import ctranslate2  # noqa: F401  (load the libraries before the limit applies)
    import sacrebleu  # noqa: F401
    import torch  # noqa: F401

    tiny_pipeline.kdmt("translate", "nowhere")
    kind, _, number = sys.argv[1].partition(":")
    if kind == "size":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(number), int(number)))
    elif kind == "files":
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(number), int(number)))
    results = []
    for command in commands:
        try:
            finished = tiny_pipeline.kdmt(*command)
            results.append([finished.code, finished.err])
        except BaseException as error:
            results.append([-1, repr(error)])
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main()

"""kdmt's word- and sequence-level distillation as criterions of fairseq 0.12.2: `--user-dir` is this folder.

It runs under fairseq's Python (3.8), so it imports nothing of kdmt. Its parent folder holds nothing else, since
fairseq puts that folder on the module path.

    fairseq-train DATA_BIN --user-dir "$(kdmt fairseq-plugin)" --criterion word_kd --knowledge CACHE ...
    fairseq-train DATA_BIN --user-dir "$(kdmt fairseq-plugin)" --criterion seq_kd --distilled DISTILLED_DATA_BIN ...
"""

from kdmt_fairseq import seq_kd, word_kd

__all__ = ["seq_kd", "word_kd"]

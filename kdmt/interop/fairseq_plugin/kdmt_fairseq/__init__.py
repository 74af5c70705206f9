"""Word- and sequence-level distillation of kdmt as criterions for fairseq 0.12.2. Pass this folder as `--user-dir`.

The plugin runs under fairseq's Python (3.8) and therefore does not import kdmt. The parent folder contains nothing
else, since fairseq adds it to the module search path.

    fairseq-train DATA_BIN --user-dir "$(kdmt fairseq-plugin)" --criterion word_kd --knowledge CACHE ...
    fairseq-train DATA_BIN --user-dir "$(kdmt fairseq-plugin)" --criterion seq_kd --distilled DISTILLED_DATA_BIN ...
"""

from kdmt_fairseq import seq_kd, word_kd

__all__ = ["seq_kd", "word_kd"]

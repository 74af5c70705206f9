"""fairseq's checkpoints, in and out.

`pickles` reads its files without running anything in them, `architectures` its settings, `states` its weights;
`languages` is what its multilingual task makes of dictionaries; `checkpoints` puts these together.
"""

from kdmt.interop.fairseq.checkpoints import TextSettings, export_checkpoint, import_checkpoints
from kdmt.interop.fairseq.states import convert_state, fairseq_state

__all__ = ["TextSettings", "convert_state", "export_checkpoint", "fairseq_state", "import_checkpoints"]

"""Reading fairseq's checkpoint files without running anything in them.

A `.pt` file is a pickle, and a pickle is a program. PyTorch's `weights_only` reader knows tensors and plain values and
no other class; the harmless ones that fairseq leaves in its files (meters, argparse's namespaces, omegaconf's
containers, settings) are given to it by name, each as an `Inert`: an object that keeps what the file says of it and
does nothing. A file that names anything else is refused.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kdmt.errors import UserError


class Inert:
    """What a file says of an object of a class that is not there.

    Attributes:
        arguments: what its class was called with.
        fields: its state.
    """

    __slots__ = ("arguments", "fields")
    arguments: tuple[Any, ...]
    fields: Any

    def __new__(cls, *arguments: Any) -> Inert:
        made = super().__new__(cls)
        made.arguments, made.fields = arguments, None
        return made

    def __init__(self, *arguments: Any) -> None:
        """The class may be called or have its `__new__` called: the arguments are kept either way."""

    def __setstate__(self, state: Any) -> None:
        self.fields = state


_MODULES: Mapping[str, str] = {  # module -> names in it
    "argparse": "Namespace",
    "builtins": "dict list tuple int float str bool",  # as marks of a type, in omegaconf's containers
    "collections": "defaultdict",
    "enum": "Enum IntEnum",
    "fairseq.meters": "AverageMeter TimeMeter StopwatchMeter",
    "fairseq.logging.meters": "AverageMeter TimeMeter StopwatchMeter SumMeter ConcatTensorMeter MetersDict",
    "fairseq.dataclass.configs": "FairseqDataclass FairseqConfig CommonConfig DistributedTrainingConfig DatasetConfig "
    "OptimizationConfig CheckpointConfig FairseqBMUFConfig GenerationConfig CommonEvalConfig EvalLMConfig "
    "InteractiveConfig EMAConfig",
    "fairseq.models.transformer.transformer_config": "TransformerConfig EncDecBaseConfig DecoderConfig "
    "QuantNoiseConfig",
    "fairseq.tasks.translation": "TranslationConfig",
    "fairseq.tasks.translation_lev": "TranslationLevenshteinConfig",
    "fairseq.criterions.cross_entropy": "CrossEntropyCriterionConfig",
    "fairseq.criterions.label_smoothed_cross_entropy": "LabelSmoothedCrossEntropyCriterionConfig",
    "fairseq.criterions.nat_loss": "LabelSmoothedDualImitationCriterionConfig",
    "fairseq.optim.adam": "FairseqAdamConfig",
    "fairseq.optim.lr_scheduler.fixed_schedule": "FixedLRScheduleConfig",
    "fairseq.optim.lr_scheduler.inverse_square_root_schedule": "InverseSquareRootLRScheduleConfig",
    "fairseq.optim.lr_scheduler.polynomial_decay_schedule": "PolynomialDecayLRScheduleConfig",
    "numpy": "dtype",
    "numpy.core.multiarray": "scalar",
    "omegaconf.base": "ContainerMetadata Metadata",
    "omegaconf.dictconfig": "DictConfig",
    "omegaconf.listconfig": "ListConfig",
    "omegaconf.nodes": "AnyNode BooleanNode EnumNode FloatNode IntegerNode StringNode",
    "pathlib": "PosixPath",
    "typing": "Any",
}
HARMLESS: Mapping[str, type[Inert]] = {
    f"{module}.{name}": type(name, (Inert,), {"__slots__": (), "__module__": __name__})
    for module, names in _MODULES.items()
    for name in names.split()
}
_DICT, _LIST = HARMLESS["omegaconf.dictconfig.DictConfig"], HARMLESS["omegaconf.listconfig.ListConfig"]
_DEEPEST = 40  # settings within settings


def read_pickle(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file, on the CPU, with an `Inert` for each object of a harmless class.

    Raises:
        UserError: there is no such file, it is damaged, is no checkpoint, or carries something else, which is named.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    allowed = [(stand_in, name) for name, stand_in in HARMLESS.items()]
    with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):  # type: ignore[arg-type]
        warnings.simplefilter("ignore")  # of pickle protocols and storage classes
        try:
            # pages of a large file that are not looked at (the optimiser's) are not read
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except Exception as error:  # a damaged file can fail in any way
            raise _refusal(path, error) from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path}: not a fairseq checkpoint: it holds no dictionary of names")
    return content


def _refusal(path: Path, error: Exception) -> UserError:
    carried = _carried(path, str(error))
    if carried:
        return UserError(
            f"{path}: refused, since it carries {', '.join(carried)}: a checkpoint holds tensors, settings and meters, "
            "and nothing in it is run"
        )
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(f"{path}: not a checkpoint that can be read, or a damaged one: {reason}")


def _carried(path: Path, message: str) -> list[str]:
    """Names in the file that are not allowed, all of them where they can be listed."""
    try:
        return sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - set(HARMLESS))
    except Exception:  # of an old format, or damaged
        found = re.search(r"GLOBAL (\S+)", message)
        return [found.group(1)] if found else []


def plain(value: Any) -> Any:
    """Settings as plain values: dictionaries for namespaces and containers, an enumeration's value for its member.

    Raises:
        UserError: they are nested too deeply.
    """
    return _plain(value, 0, {})


def _plain(value: Any, depth: int, made: dict[int, Any]) -> Any:
    """`made`: what became of objects so far; one that lies in many places is gone through once."""
    if depth > _DEEPEST:
        raise UserError("a checkpoint's settings are nested too deeply")
    if not isinstance(value, Mapping | list | tuple | Inert):
        return value
    if id(value) not in made:
        made[id(value)] = _opened(value, depth + 1, made)
    return made[id(value)]


def _opened(value: Any, depth: int, made: dict[int, Any]) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each, depth, made) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, depth, made) for each in value]
    fields = value.fields
    if isinstance(value, _DICT | _LIST):
        return _plain(fields.get("_content") if isinstance(fields, Mapping) else None, depth, made)
    if isinstance(fields, Mapping):
        return _plain(fields.get("_val", fields), depth, made)
    return _plain(value.arguments[0], depth, made) if len(value.arguments) == 1 else None

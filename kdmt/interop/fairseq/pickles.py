"""Reading fairseq's checkpoint files without running anything in them.

A `.pt` file is a pickle, and a pickle is a program. PyTorch's `weights_only` reader knows tensors and plain values and
no other class; the harmless ones that fairseq leaves in its files (meters, argparse's namespaces, omegaconf's
containers, settings) are given to it by name, each as an `Inert`: an object that keeps what the file says of it and
does nothing (of a dictionary's subclass its items alone). A file that names anything else is refused, and all of it is
listed.
"""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch._weights_only_unpickler import _get_allowed_globals

from kdmt.errors import UserError
from kdmt.files import check_file
from kdmt.interop.fairseq.names import is_zip, named_in
from kdmt.recognition import wrong_path


class Inert:
    """What a file says of an object of a class that is not there.

    Attributes:
        arguments: what its class was called with.
        fields: its state.
    """

    __slots__ = ("arguments", "fields")
    arguments: tuple[object, ...]
    fields: object

    def __new__(cls, *arguments: object) -> Inert:
        made = super().__new__(cls)
        made.arguments, made.fields = arguments, None
        return made

    def __init__(self, *arguments: object) -> None:
        """The class may be called or have its `__new__` called: the arguments are kept either way."""

    def __setstate__(self, state: object) -> None:
        self.fields = state


class _Items:
    """Stands in for a subclass of dict: what is made is an `OrderedDict`, since PyTorch's reader fills no other one."""

    def __new__(cls, *_: object) -> OrderedDict[object, object]:  # type: ignore[misc]
        return OrderedDict()


_MODULES: Mapping[str, str] = {  # module -> names in it
    "argparse": "Namespace",
    "builtins": "dict list tuple int float str bool",  # as marks of a type, in omegaconf's containers
    "enum": "Enum IntEnum",
    "fairseq.meters": "AverageMeter TimeMeter StopwatchMeter",
    "fairseq.logging.meters": "AverageMeter TimeMeter StopwatchMeter SumMeter ConcatTensorMeter",
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
    "numpy._core.multiarray": "scalar",  # numpy 2's name
    "numpy.core.multiarray": "scalar",
    "omegaconf.base": "ContainerMetadata Metadata",
    "omegaconf.dictconfig": "DictConfig",
    "omegaconf.listconfig": "ListConfig",
    "omegaconf.nodes": "AnyNode BooleanNode EnumNode FloatNode IntegerNode StringNode",
    "pathlib": "PosixPath",
    "typing": "Any",
}
_DICTS = ("collections.defaultdict", "fairseq.logging.meters.MetersDict")
HARMLESS: Mapping[str, type] = {
    f"{module}.{name}": type(name, (Inert,), {"__slots__": (), "__module__": __name__})
    for module, names in _MODULES.items()
    for name in names.split()
} | dict.fromkeys(_DICTS, _Items)
_DICT, _LIST = HARMLESS["omegaconf.dictconfig.DictConfig"], HARMLESS["omegaconf.listconfig.ListConfig"]
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_DEEPEST = 40  # settings within settings


def is_checkpoint_file(path: Path) -> bool:
    """Whether a path is a file of PyTorch's, in its zip or its older pickle format, by its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(2) in (b"PK", *(bytes([0x80, protocol]) for protocol in range(2, 6)))


def read_pickle(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file, on the CPU, with an `Inert` for each object of a harmless class.

    Raises:
        UserError: there is no such file, it is damaged, is no checkpoint, or carries something else, which is named.
    """
    if path.is_dir():
        raise wrong_path(path, "not a checkpoint that can be read")
    check_file(path)
    if not is_checkpoint_file(path):
        raise wrong_path(path, "not a checkpoint that can be read, or a damaged one")
    allowed = [(stand_in, name) for name, stand_in in HARMLESS.items()]
    with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):  # type: ignore[arg-type]
        warnings.simplefilter("ignore")  # of pickle protocols and storage classes
        try:
            # pages of a large file that are not looked at (the optimiser's) are not read
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip(path))
        except Exception as error:  # a damaged file can fail in any way
            raise _refusal(path, str(error) or type(error).__name__) from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path}: not a fairseq checkpoint: it holds no dictionary of names")
    return items_of(content)


def items_of(given: dict[_Key, _Value]) -> dict[_Key, _Value]:
    """A file's dictionary as a plain one: it may have given an `OrderedDict` attributes by the names of methods."""
    return dict(dict.items(given))


def _refusal(path: Path, message: str) -> UserError:
    carried = _carried(path, message)
    if carried:
        return UserError(
            f"{path}: refused, since it carries {', '.join(carried)}: a checkpoint holds tensors, settings and meters, "
            "and nothing in it is run"
        )
    return UserError(f"{path}: not a checkpoint that can be read, or a damaged one: {_reason(message)}")


def _carried(path: Path, message: str) -> list[str]:
    """Names in the file that are not allowed; where none can be found in it, the one that PyTorch stumbled over."""
    found = named_in(path) - set(HARMLESS) - set(_get_allowed_globals())
    if not found:
        found = set(re.findall(r"GLOBAL (\S+)", message))
    return sorted(found)


def _reason(message: str) -> str:
    """PyTorch's, without its advice to read the file in a way that runs what is in it."""
    message = message.partition("WeightsUnpickler error:")[2] or message
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines or re.search(r"weights.only|safe_globals|trust", lines[0], re.IGNORECASE):
        return "it holds what no tensors and plain values are written with"
    return lines[0]


def plain(value: Any) -> Any:
    """Settings as plain values: dictionaries for namespaces and containers, an enumeration's value for its member.

    Raises:
        UserError: they are nested too deeply.
    """
    return _plain(value, 0, {})


def _plain(value: object, depth: int, made: dict[int, object]) -> object:
    """`made`: what became of objects so far; one that lies in many places is gone through once."""
    if depth > _DEEPEST:
        raise UserError("a checkpoint's settings are nested too deeply")
    if isinstance(value, torch.Tensor):
        raise UserError("among a checkpoint's settings there is a tensor, which none of fairseq's is")
    if not isinstance(value, dict | list | tuple | Inert):
        return value
    if id(value) not in made:
        made[id(value)] = _opened(value, depth + 1, made)
    return made[id(value)]


def _opened(
    value: dict[object, object] | list[object] | tuple[object, ...] | Inert, depth: int, made: dict[int, object]
) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(each, depth, made) for key, each in items_of(value).items()}
    if isinstance(value, list | tuple):
        return [_plain(each, depth, made) for each in value]
    fields = items_of(value.fields) if isinstance(value.fields, dict) else None
    if isinstance(value, _DICT | _LIST):
        return _plain(fields.get("_content") if fields is not None else None, depth, made)
    if fields is not None:
        return _plain(fields["_val"], depth, made) if "_val" in fields else _opened(fields, depth, made)
    return _plain(value.arguments[0], depth, made) if len(value.arguments) == 1 else None

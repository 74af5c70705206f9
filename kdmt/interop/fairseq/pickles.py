"""Reader of fairseq's checkpoint files that runs no code in them.

A `.pt` file is a pickle, and a pickle is a program. PyTorch's `weights_only` reader supports tensors and plain values
and no other class. The harmless classes that fairseq's files contain (meters, argparse's namespaces, omegaconf's
containers, settings) are passed to the reader by name. Each is replaced by an `Inert`, an object that stores its
arguments and state and does nothing; a subclass of dict is replaced by a dictionary of its items. A file that names
anything else is refused, and the error lists all such names.
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
    """Placeholder for an object in a file whose class is not available.

    Attributes:
        arguments: arguments of the call of the class.
        fields: state of the object.
    """

    __slots__ = ("arguments", "fields")
    arguments: tuple[object, ...]
    fields: object

    def __new__(cls, *arguments: object) -> Inert:
        made = super().__new__(cls)
        made.arguments, made.fields = arguments, None
        return made

    def __init__(self, *arguments: object) -> None:
        """Ignore the arguments: `__new__` stores them, since a pickle may call either the class or its `__new__`."""

    def __setstate__(self, state: object) -> None:
        self.fields = state


class _Items:
    """Replacement for subclasses of dict. It creates an `OrderedDict`, the only one that PyTorch's reader can fill."""

    def __new__(cls, *_: object) -> OrderedDict[object, object]:  # type: ignore[misc]
        return OrderedDict()


_MODULES: Mapping[str, str] = {  # module -> names of its classes
    "argparse": "Namespace",
    "builtins": "dict list tuple int float str bool",  # used as type annotations in omegaconf's containers
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
    "numpy._core.multiarray": "scalar",  # name in NumPy 2
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
_DEEPEST = 40  # maximum nesting depth of settings


def is_checkpoint_file(path: Path) -> bool:
    """Return whether the first bytes of a file are those of PyTorch's zip format or its older pickle format."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(2) in (b"PK", *(bytes([0x80, protocol]) for protocol in range(2, 6)))


def read_pickle(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint file, on the CPU, with an `Inert` for each object of a harmless class.

    Raises:
        UserError: if there is no such file, it is damaged or not a checkpoint, or it contains objects of other classes.
            The message names the classes.
    """
    if path.is_dir():
        raise wrong_path(path, "not a checkpoint that can be read")
    check_file(path)
    if not is_checkpoint_file(path):
        raise wrong_path(path, "not a checkpoint that can be read, or a damaged one")
    allowed = [(stand_in, name) for name, stand_in in HARMLESS.items()]
    with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):  # type: ignore[arg-type]
        warnings.simplefilter("ignore")  # warnings about pickle protocols and storage classes
        try:
            # memory mapping avoids reading unused parts of a large file (the state of the optimiser)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip(path))
        except Exception as error:  # a damaged file can fail in any way
            raise _refusal(path, str(error) or type(error).__name__) from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path}: not a fairseq checkpoint: it holds no dictionary of names")
    return items_of(content)


def items_of(given: dict[_Key, _Value]) -> dict[_Key, _Value]:
    """Return a plain copy of a dictionary from a file.

    A file can create an `OrderedDict` with attributes that replace its methods, such as `items`.
    """
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
    """Return the names in a file that are not allowed; if none can be found, the name in PyTorch's error message."""
    found = named_in(path) - set(HARMLESS) - set(_get_allowed_globals())
    if not found:
        found = set(re.findall(r"GLOBAL (\S+)", message))
    return sorted(found)


def _reason(message: str) -> str:
    """Return the reason in PyTorch's error message, without its advice to read the file in a way that runs its code."""
    message = message.partition("WeightsUnpickler error:")[2] or message
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines or re.search(r"weights.only|safe_globals|trust", lines[0], re.IGNORECASE):
        return "it holds what no tensors and plain values are written with"
    return lines[0]


def plain(value: Any) -> Any:
    """Convert settings to plain values: namespaces and containers to dictionaries, enumeration members to their values.

    Raises:
        UserError: if the settings are nested too deeply or contain a tensor.
    """
    return _plain(value, 0, {})


def _plain(value: object, depth: int, made: dict[int, object]) -> object:
    """Convert a value. `made` maps the id of each converted object to its result, so that each is converted once."""
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

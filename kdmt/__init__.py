"""kdmt: sequence-level knowledge distillation for neural machine translation.

    import kdmt

    model = kdmt.load("runs/toy/students/distilled/seed_1")
    model.translate(["The dog sleeps."], beam=5)
    kdmt.Pipeline.from_yaml("toy.yaml").run(to="score")

The names below are loaded at their first use, so that `import kdmt` stays cheap.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as in `typing`, whose import would take longer than that of this module
if TYPE_CHECKING:
    from kdmt.api import Model, Pipeline, Translation, load, lock
    from kdmt.errors import Interrupted, UserError

__version__ = "0.2.0"

__all__ = ["Interrupted", "Model", "Pipeline", "Translation", "UserError", "__version__", "load", "lock"]

_MODULES = {
    "Interrupted": "kdmt.errors",
    "Model": "kdmt.api",
    "Pipeline": "kdmt.api",
    "Translation": "kdmt.api",
    "UserError": "kdmt.errors",
    "load": "kdmt.api",
    "lock": "kdmt.api",
}  # public name -> the module that defines it


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'kdmt' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

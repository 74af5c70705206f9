"""Load `guard.cpp`, without which a PyTorch for CPUs refuses tensors on cuda:0, before torch is imported.

The guard stays for the rest of the process and makes PyTorch's C++ code believe that there is a GPU, so that a process
that loads it should do nothing else. The module does not import torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

_SOURCE = Path(__file__).with_name("guard.cpp")
_COMPILERS = ("c++", "g++", "clang++")
_loaded: list[ctypes.CDLL] = []


# at::CUDAHooksRegistry has one entry, "CUDAHooks", and c10::Registry::Register calls exit(1) for a second one of the
# same priority. c10::impl::registerDeviceGuard replaces a guard, but libtorch_cuda, which is loaded after guard.cpp,
# registers its own. A higher priority and a later registration might do; torch.cuda would still call the driver.
BUILT_FOR_CUDA = (
    "no GPU, and this PyTorch contains CUDA: libtorch_cuda registers its own CUDA hooks and device guard, which need a "
    "driver and cannot be registered twice; install a PyTorch for CPUs to run this test on the simulated device"
)


class NoSimulation(Exception):
    """The simulated device cannot be used here; the message is the reason."""


def torch_folder() -> Path:
    """Return the folder of the installed package `torch`."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise NoSimulation("torch is not installed")
    return Path(spec.origin).parent


def is_built_for_cuda() -> bool:
    """Return whether the installed PyTorch contains CUDA, without importing it."""
    return any((torch_folder() / "lib").glob("*torch_cuda*"))


def is_loaded() -> bool:
    """Return whether this process has the guard."""
    return bool(_loaded)


def load_guard(cache: Path) -> None:
    """Compile the guard, unless the cache has it, and load it into this process.

    Args:
        cache: folder for the compiled library, created if needed.

    Raises:
        NoSimulation: if torch was imported before, contains CUDA, or there is no C++ compiler that can compile for it.
    """
    if _loaded:
        return
    if "torch" in sys.modules:
        raise NoSimulation("torch was imported before the simulated device; run these tests in a process of their own")
    if is_built_for_cuda():
        raise NoSimulation(BUILT_FOR_CUDA)
    library = _compiled(cache)
    for name in ("libc10", "libtorch_cpu"):  # whose symbols the guard needs; `import torch` would load them later
        ctypes.CDLL(str(_shared_library(name)), mode=ctypes.RTLD_GLOBAL)
    _loaded.append(ctypes.CDLL(str(library)))


def _shared_library(name: str) -> Path:
    suffix = "dylib" if sys.platform == "darwin" else "so"
    path = torch_folder() / "lib" / f"{name}.{suffix}"
    if not path.is_file():
        raise NoSimulation(f"this PyTorch has no {path.name}")
    return path


def _compiled(cache: Path) -> Path:
    """Return the compiled guard; its name contains the checksum of the source and of the version of PyTorch."""
    key = hashlib.sha256(_SOURCE.read_bytes() + metadata.version("torch").encode()).hexdigest()[:16]
    library = cache / f"guard-{key}.so"
    if library.is_file():
        return library
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = cache / f"{library.name}.{os.getpid()}"
    torch = torch_folder()
    command = [
        *(_compiler(), "-O1", "-std=c++20", "-shared", "-fPIC", f"-I{torch / 'include'}", str(_SOURCE)),
        *("-o", str(unfinished), f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch / 'lib'}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        unfinished.unlink(missing_ok=True)
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["failed"]
        raise NoSimulation(f"{command[0]} cannot compile {_SOURCE.name} for PyTorch: {lines[0]}")
    unfinished.replace(library)
    return library


def _compiler() -> str:
    """Return the C++ compiler: $CXX, else the first one in the path."""
    for name in (os.environ.get("CXX"), *_COMPILERS):
        if name and shutil.which(name):
            return name
    raise NoSimulation(f"no C++ compiler: neither $CXX nor {', '.join(_COMPILERS)}")

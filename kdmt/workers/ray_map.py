"""An ordered map over chunks on a Ray cluster (extra `ray`), as `kdmt.corpus.process_pool` provides on one machine.

The driver reads the chunks and writes the results, so that other nodes need no access to its files.
"""

from __future__ import annotations

import collections
import os
import pickle
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from kdmt.errors import UserError, describe_error
from kdmt.workers.ray_actors import connected, count_room, describe_lack, import_ray, is_joined

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")

_CHUNKS_IN_FLIGHT = 3  # per worker, so that the next chunk is available when one is done
_functions: dict[str, Callable[[Any], Any]] = {}  # in a worker of Ray: the function that it applies, by its key


@contextmanager
def mapping_on_ray(
    function: Callable[[Chunk], Result], workers: int, address: str | None = None
) -> Iterator[Callable[[Iterable[Chunk]], Iterator[Result]]]:
    """Provide a `map` with `function` that keeps the order of the chunks.

    The function is sent to each worker once. A chunk whose worker or node is lost is sent to another one.

    Args:
        function: function of a module or a partial of one, which the nodes import.
        workers: number of chunks at once; 0 for as many as an idle cluster has CPUs.
        address: address of the cluster; None for RAY_ADDRESS if set, else a new Ray on this machine.

    Raises:
        UserError: if Ray is not installed, there is no cluster at the address, it has no CPU, or a worker is lost
            again and again.
    """
    ray = import_ray(starts=not (address or os.environ.get("RAY_ADDRESS") or is_joined()))
    with connected(ray, address):
        room = count_room(ray.nodes(), 1, False)
        if not room:
            raise UserError(describe_lack(1, False))
        size = workers or room
        key, pickled = secrets.token_hex(8), [ray.put(pickle.dumps(function))]
        apply = ray.remote(num_cpus=1)(_apply)

        def map_in_order(chunks: Iterable[Chunk]) -> Iterator[Result]:
            waiting: collections.deque[Any] = collections.deque()
            for chunk in chunks:
                waiting.append(apply.remote(key, pickled, chunk))
                if len(waiting) == size * _CHUNKS_IN_FLIGHT:
                    yield _result(ray, waiting.popleft())
            while waiting:
                yield _result(ray, waiting.popleft())

        yield map_in_order


def _apply(key: str, pickled: list[Any], chunk: Any) -> Any:
    """Apply a function to a chunk in a worker of Ray.

    Args:
        key: key of the function among those that this process has.
        pickled: reference to the pickled function, in a list so that Ray does not fetch it for every chunk.
    """
    if key not in _functions:
        import ray

        _functions.clear()
        _functions[key] = pickle.loads(ray.get(pickled[0]))
    return _functions[key](chunk)


def _result(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise UserError(f"a worker of Ray was lost: {describe_error(error)}") from None

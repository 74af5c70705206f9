"""Pairs of a layer of the student and a layer of the teacher that are compared."""

from __future__ import annotations

from kdmt.config import LayerMap
from kdmt.errors import UserError


def layer_pairs(layers: LayerMap, num_student: int, num_teacher: int) -> list[tuple[int, int]]:
    """Return the pairs (layer of the student, layer of the teacher) of the settings.

    Raises:
        UserError: if a layer does not exist.
    """
    if layers == "none":
        return []
    if layers == "uniform":
        return uniform_layers(num_student, num_teacher)
    if isinstance(layers, str):
        count = int(layers.removeprefix("last:"))
        if count > min(num_student, num_teacher):
            raise UserError(f"{layers!r}: the student has {num_student} layers, the teacher {num_teacher}")
        return last_layers(num_student, num_teacher, count)
    if len(set(layers)) != len(layers):
        raise UserError(f"{[list(pair) for pair in layers]}: a pair is listed twice")
    for own, other in layers:
        if own >= num_student or other >= num_teacher:
            whose, number, have = (
                ("student", own, num_student) if own >= num_student else ("teacher", other, num_teacher)
            )
            raise UserError(f"[{own}, {other}]: the {whose} has no layer {number}, only 0 to {have - 1}")
    return list(layers)


def uniform_layers(num_student: int, num_teacher: int) -> list[tuple[int, int]]:
    """Return evenly spaced pairs up to the last layer (Jiao et al. 2020: g(m) = m * N / M).

    If g(m) is not a whole number, it is rounded down. In a student that is deeper than its teacher it is rounded up,
    since g(1) must not be 0.
    """
    if num_student > num_teacher:
        return [(layer, -(-(layer + 1) * num_teacher // num_student) - 1) for layer in range(num_student)]
    return [(layer, (layer + 1) * num_teacher // num_student - 1) for layer in range(num_student)]


def last_layers(num_student: int, num_teacher: int, count: int) -> list[tuple[int, int]]:
    """Return the pairs of the last `count` layers."""
    return [(num_student - back, num_teacher - back) for back in range(count, 0, -1)]

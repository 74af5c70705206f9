"""Search for a path in the output of a directed acyclic decoder (Huang et al. 2022, DA-Transformer; Shao et al. 2022).

A path begins at the first vertex and ends at the last one that is not padding. `links_BLL[b, u, v]` is the
log-probability of vertex v after vertex u, -inf if v is not later than u; `tokens_BL` has the log-probability of the
best token of each vertex.

Shapes: B batch, L vertices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdmt.decode.search.transfers import to_device, to_host

Paths = tuple[list[list[int]], list[float]]  # vertices of the path of each sentence, and its score


def greedy_paths(tokens_BL: Tensor, links_BLL: Tensor, vertices_B: Tensor) -> Paths:
    """Return the paths that follow the most probable link at each step.

    The score is the log-probability of path and tokens.
    """
    return _follow(tokens_BL, links_BLL, links_BLL, vertices_B)


def lookahead_paths(tokens_BL: Tensor, links_BLL: Tensor, vertices_B: Tensor) -> Paths:
    """Return the paths that choose the next vertex together with its token: the largest E(v | u) P(token of v)."""
    return _follow(tokens_BL, links_BLL, links_BLL + tokens_BL[:, None, :], vertices_B)


def _follow(tokens_BL: Tensor, links_BLL: Tensor, choice_BLL: Tensor, vertices_B: Tensor) -> Paths:
    paths = []
    following, vertices_of = (each.tolist() for each in to_host(choice_BLL.argmax(2), vertices_B))
    for sentence, vertices in zip(following, vertices_of, strict=True):
        path = [0]
        while path[-1] < vertices - 1 and len(path) < vertices:  # NaN could lead back: the path's length is limited
            path.append(sentence[path[-1]])
        paths.append(path)
    return paths, _scores(paths, tokens_BL, links_BLL)


def _scores(paths: list[list[int]], tokens_BL: Tensor, links_BLL: Tensor) -> list[float]:
    """Return the log-probability of each path and of the tokens on it."""
    longest = max(map(len, paths), default=1)
    padded_BP = torch.tensor([[*path, *[0] * (longest - len(path))] for path in paths])
    padded_BP = to_device(padded_BP, tokens_BL.device)
    rows_B1 = torch.arange(len(paths), device=tokens_BL.device)[:, None]
    on_path = to_host(tokens_BL.gather(1, padded_BP), links_BLL[rows_B1, padded_BP[:, :-1], padded_BP[:, 1:]])
    tokens_BP, links_BP = (torch.from_numpy(array).to(tokens_BL.dtype) for array in on_path)  # float64 from a GPU
    return [
        float(tokens_P[: len(path)].sum() + links_P[: len(path) - 1].sum())
        for path, tokens_P, links_P in zip(paths, tokens_BP, links_BP, strict=True)
    ]


def viterbi_paths(tokens_BL: Tensor, links_BLL: Tensor, vertices_B: Tensor, *, beta: float) -> Paths:
    """Return the paths of any length with the largest log-probability / length ** beta (joint Viterbi).

    The length counts all vertices of the path, including the first and the last.
    """
    steps_BLL = links_BLL + tokens_BL[:, None, :]
    best_BL = torch.full_like(tokens_BL, -torch.inf)
    best_BL[:, 0] = tokens_BL[:, 0]
    last_B1 = (vertices_B - 1)[:, None]
    ends, came_from = [best_BL.gather(1, last_B1)], []
    for length in range(2, tokens_BL.size(1) + 1):
        best = (best_BL[:, :, None] + steps_BLL).max(1)
        best_BL = best.values
        came_from.append(best.indices)
        ends.append(best_BL.gather(1, last_B1) / length**beta)
    scores_BN = torch.cat(ends, dim=1)
    ends_of = to_host(scores_BN.argmax(1) + 1, vertices_B, scores_BN.amax(1))
    lengths, vertices_of, scores = (each.tolist() for each in ends_of)
    steps = came_from[: max(lengths, default=1) - 1]
    back = to_host(torch.stack(steps))[0].tolist() if steps else []
    paths = []
    for place, (length, vertices) in enumerate(zip(lengths, vertices_of, strict=True)):
        path = [vertices - 1]
        for step in range(length - 2, -1, -1):
            path.append(back[step][place][path[-1]])
        paths.append(path[::-1])
    return paths, scores

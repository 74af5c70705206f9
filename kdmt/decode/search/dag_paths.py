"""Search for a path in the output of a directed acyclic decoder (Huang et al. 2022, DA-Transformer; Shao et al. 2022).

A path begins at the first vertex and ends at the last one that is not padding. `links_BLL[b, u, v]` is the
log-probability of vertex v after vertex u, -inf if v is not later than u; `tokens_BL` has the log-probability of the
best token of each vertex.

Shapes: B batch, L vertices.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
    following = choice_BLL.argmax(2).tolist()
    paths = []
    for sentence, vertices in zip(following, vertices_B.tolist(), strict=True):
        path = [0]
        while path[-1] < vertices - 1 and len(path) < vertices:  # NaN could lead back: the path's length is limited
            path.append(sentence[path[-1]])
        paths.append(path)
    scores = [_score(path, tokens_BL[place], links_BLL[place]) for place, path in enumerate(paths)]
    return paths, scores


def _score(path: list[int], tokens_L: Tensor, links_LL: Tensor) -> float:
    vertices = torch.tensor(path, device=tokens_L.device)
    return float(tokens_L[vertices].sum() + links_LL[vertices[:-1], vertices[1:]].sum())


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
    lengths = (scores_BN.argmax(1) + 1).tolist()
    back = [each.tolist() for each in came_from]
    paths = []
    for place, (length, vertices) in enumerate(zip(lengths, vertices_B.tolist(), strict=True)):
        path = [vertices - 1]
        for step in range(length - 2, -1, -1):
            path.append(back[step][place][path[-1]])
        paths.append(path[::-1])
    return paths, scores_BN.amax(1).tolist()

"""Losses on vectors and their similarities, whatever the vectors were made from: InfoNCE, sigmoid of pairs, CoSENT.

Axes: K rows (queries), C candidates, U vectors, D their width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def shortened(vectors_UD: Tensor, size: int | None, *, normalize: bool = True) -> Tensor:
    """The first ``size`` numbers of each vector, at length 1 where wanted: a prefix of a matryoshka vector.

    Kusupati et al. 2022 (Matryoshka Representation Learning, arXiv 2205.13147), section 3.
    """
    prefix_UD = vectors_UD if size is None else vectors_UD[:, :size]
    return F.normalize(prefix_UD, dim=-1) if normalize else prefix_UD


def info_nce(
    queries_KD: Tensor, candidates_CD: Tensor, blocked_KC: Tensor, scale: Tensor | float, *, symmetric: bool = False
) -> Tensor:
    """(K,) losses: -log softmax(scale · q_k · c)[k], where candidate k is the positive of query k.

    Van den Oord et al. 2018 (arXiv 1807.03748), equation 4, with in-batch negatives as in Karpukhin et al. 2020 (arXiv
    2004.04906), section 3.2. ``blocked_KC`` are candidates that are no negatives of a query. ``symmetric`` is the mean
    of that and of each positive's loss among the queries (Radford et al. 2021, arXiv 2103.00020, figure 3).
    """
    logits_KC = (scale * queries_KD @ candidates_CD.T).masked_fill(blocked_KC, -torch.inf)
    own_K = torch.arange(len(queries_KD), device=queries_KD.device)
    losses_K = F.cross_entropy(logits_KC, own_K, reduction="none")
    if not symmetric:
        return losses_K
    back_KK = logits_KC[:, : len(own_K)].T
    return (losses_K + F.cross_entropy(back_KK, own_K, reduction="none")) / 2


def pair_sigmoid(
    queries_KD: Tensor, candidates_CD: Tensor, blocked_KC: Tensor, scale: Tensor | float, bias: Tensor | float, *,
    own: bool = True,
) -> Tensor:  # fmt: skip
    """(K,) losses: -Σ_c log σ(z_kc (scale · q_k · v_c + bias)), z = 1 where c = k and -1 elsewhere.

    SigLIP (Zhai et al. 2023, arXiv 2303.15343), equation 1, whose sum over k is divided by K. ``blocked_KC`` are
    candidates that are no negatives of a query: these pairs are left out. Without ``own`` all are negatives.
    """
    logits_KC = scale * queries_KD @ candidates_CD.T + bias
    signs_KC = 2 * own * torch.eye(*logits_KC.shape, device=logits_KC.device) - 1
    return -F.logsigmoid(signs_KC * logits_KC).masked_fill(blocked_KC, 0).sum(1)


def cosent(similarities_K: Tensor, scores_K: Tensor, weights_K: Tensor, scale: Tensor | float) -> Tensor:
    """log(1 + Σ over pairs of rows with s_i > s_j of w_i w_j exp(scale · (cos_j - cos_i))), a scalar.

    CoSENT (Huang et al. 2024, doi 10.1109/TASLP.2024.3402087): the order of the similarities is to be that of the
    scores, whatever their range.
    """
    higher_KK = scores_K[:, None] > scores_K[None, :]
    exponents_KK = scale * (similarities_K[None, :] - similarities_K[:, None])
    exponents_KK = exponents_KK + (weights_K[:, None] * weights_K[None, :]).log()
    chosen = torch.cat([exponents_KK.new_zeros(1), exponents_KK[higher_KK]])
    return torch.logsumexp(chosen, dim=0)


def not_negative(query_keys: Sequence[int], positive_keys: Sequence[int], candidate_keys: Sequence[int]) -> Tensor:
    """(K, C) True where a candidate is not to be pushed away from a query, told by content.

    It is a positive of the same query (this one once more, or another row's), or the query itself. Candidate k, the
    query's own positive, stays. Keys are equal for equal contents.
    """
    positives: dict[int, set[int]] = {}
    for query, positive in zip(query_keys, positive_keys, strict=True):
        positives.setdefault(query, {query}).add(positive)
    places: dict[int, list[int]] = {}
    for at, key in enumerate(candidate_keys):
        places.setdefault(key, []).append(at)
    blocked_KC = torch.zeros(len(query_keys), len(candidate_keys), dtype=torch.bool)
    for k, query in enumerate(query_keys):
        same = [at for key in positives[query] for at in places.get(key, ()) if at != k]
        blocked_KC[k, same] = True
    return blocked_KC

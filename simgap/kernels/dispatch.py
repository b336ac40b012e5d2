"""Counting tokens into experts' lists: a sort by expert in two passes, where a general sort would take ten times as long."""

from simgap.kernels.compiled import kernel


@kernel()
def rank_tokens(indices, rank, load):
    """The place of every assignment in its expert's list, tokens in order, and the length of every list.

    indices: (s, n, k) int64, -1 for none. rank: (s, n, k) int64 out. load: (s, E) int64, zeros in, lengths out.
    """
    s, n, k = indices.shape
    for a in range(s):
        for t in range(n):
            for j in range(k):
                e = indices[a, t, j]
                if e >= 0:
                    rank[a, t, j] = load[a, e]
                    load[a, e] += 1


@kernel()
def list_tokens(indices, rank, tokens, index):
    """Fill the lists: tokens[s, e, c] is the token at place c of expert e, index[s, t, j] the row e C + c of an assignment.

    tokens: (s, E, C) int64, zeros in. index: (s, n, k) int64 out, -1 for none.
    """
    s, n, k = indices.shape
    length = tokens.shape[2]
    for a in range(s):
        for t in range(n):
            for j in range(k):
                e = indices[a, t, j]
                index[a, t, j] = -1
                if e >= 0:
                    tokens[a, e, rank[a, t, j]] = t
                    index[a, t, j] = e * length + rank[a, t, j]

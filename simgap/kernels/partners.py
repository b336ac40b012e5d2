"""For each vector of a pair of experts, others of the same pair to hold it against: the nearest in an order, of other documents."""

from simgap.kernels.compiled import kernel


@kernel()
def add_partners(ends, documents, partners):
    """partners[p] are the nearest places to p in its group, of another document than its own, before and after it in turn; -1 where there
    are no more.

    ends: (G,) int64, where each group of places ends; the first begins at 0. documents: (M,) int64. partners: (M, r) int64 out. O(M r)
    where neighbours differ in their documents, at worst a group's size squared.
    """
    begin = 0
    for end in ends:
        one = True
        for p in range(begin + 1, end):
            one = one and documents[p] == documents[begin]
        for p in range(begin, end):
            count, reach = 0, 0 if one else max(p - begin, end - 1 - p)
            for apart in range(1, reach + 1):
                # After and before in turn, so that neither end of an order is held against one side alone more than it must.
                for q in (p + apart, p - apart):
                    if begin <= q < end and documents[q] != documents[p] and count < partners.shape[1]:
                        partners[p, count] = q
                        count += 1
                if count == partners.shape[1]:
                    break
            for left in range(count, partners.shape[1]):
                partners[p, left] = -1
        begin = end

"""Orders of numbers by group, in time that grows with how many there are."""

import numpy as np

from simgap.kernels.compiled import kernel


@kernel()
def by_group(groups, count, order):
    """order: (m,) int64 out, the places of each group together, in the order in which they come. groups: (m,) int64, of 0 to count - 1."""
    ends = np.zeros(count + 1, np.int64)
    for group in groups:
        ends[group + 1] += 1
    for group in range(count):
        ends[group + 1] += ends[group]
    for place in range(groups.size):
        order[ends[groups[place]]] = place
        ends[groups[place]] += 1


@kernel()
def within_groups(ends, values, order):
    """order: (m,) int64 out, the places of each group by their values (m,), equal ones in the order in which they come; no NaN. ends: (G,)
    int64, where each group ends; the first begins at 0. O(m log m)."""
    spare = np.empty(order.size, np.int64)
    begin = 0
    for end in ends:
        for place in range(begin, end):
            order[place] = place
        size = 1
        # Merges of neighbours, of 1 at first.
        while size < end - begin:
            for first in range(begin, end - size, 2 * size):
                middle, last = first + size, min(first + 2 * size, end)
                # What is in order already is left.
                if values[order[middle - 1]] <= values[order[middle]]:
                    continue
                for place in range(first, middle):
                    spare[place] = order[place]
                left, right = first, middle
                for place in range(first, last):
                    if right == last or (left < middle and values[spare[left]] <= values[order[right]]):
                        order[place] = spare[left]
                        left += 1
                    else:
                        order[place] = order[right]
                        right += 1
            size *= 2
        begin = end

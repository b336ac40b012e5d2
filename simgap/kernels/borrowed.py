"""How the inner functions of the kernels are compiled."""

from typing import Any

# Arrays that a caller holds are borrowed, not counted: a reference count is one word of memory that all threads would fight over, at a
# cost above that of a token's arithmetic. Such a function may index arrays and take views of them, but make none.
BORROWED: dict[str, Any] = {"nogil": True, "cache": True, "_nrt": False}
# numba's cache knows a kernel by its own file alone: after an edit of a file that it calls into, `make` clears the cache.

import matplotlib.pyplot as plt
import pytest


@pytest.fixture(scope="module")
def quick_figures():
    """Figures without matplotlib's constrained layout, which takes most of the time they need and says nothing of what is in them."""
    whole = plt.subplots
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plt, "subplots", lambda *shape, layout, **options: whole(*shape, **options))
        yield

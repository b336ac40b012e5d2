import pytest
from matplotlib import figure


@pytest.fixture(scope="module")
def quick_figures():
    """Figures without matplotlib's constrained layout, which takes most of the time they need and says nothing of what is in them."""
    whole = figure.Figure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure, "Figure", lambda layout, **options: whole(**options))
        yield

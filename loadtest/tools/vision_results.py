"""What runs with vision-language models store. The reports read it."""

from statistics import median

import msgspec

from loadtest.tools.results import STORED

RESULTS = STORED / "vision.json"
PACKED, SINGLY, COMPILED, LIBRARY = "packed", "one at a time", "packed, compiled", "sentence-transformers"
"""The ways in which items are computed."""


class Weights(msgspec.Struct, frozen=True):
    """What a model holds, and what it multiplies."""

    all: int
    """Of both towers without a head, as an entry holds them."""
    per_patch: float
    """Multiplied with each patch: in the vision tower."""
    per_token: float
    """Multiplied with each token of the text, those of merged patches included."""

    def flops(self, patches: int, tokens: int) -> float:
        """Operations of the products with weights; those of attention come on top."""
        return 2 * (patches * self.per_patch + tokens * self.per_token)


class Speed(msgspec.Struct, frozen=True):
    """Some items, computed in one way."""

    items: str
    """What they are."""
    way: str
    count: int
    """Of the items."""
    images: int
    patches: int
    tokens: int
    """Of the text, those of merged patches included."""
    seconds: list[float]
    """For all items, in each round."""
    error: float
    """The most that the cosine of a vector with that of sentence-transformers is below 1."""

    def per_second(self, number: float) -> float:
        """So many of something that all items have together, in a second."""
        return number / median(self.seconds)


class Vision(msgspec.Struct, frozen=True):
    """A model in process."""

    model: str
    """What it is called."""
    layers: tuple[int, int]
    """Of the text tower and of the vision tower."""
    words: int
    """Ids of its vocabulary."""
    weights: Weights
    speeds: list[Speed]
    peak_gflops: float
    """Of large matrix products on the same device in the same precision."""
    mib: dict[str, float] = {}
    """GPU memory that a pack takes beside the weights, by its items."""

    def share(self, speed: Speed) -> float:
        """The share of the device's peak that the products with weights reach."""
        return speed.per_second(self.weights.flops(speed.patches, speed.tokens)) / (1e9 * self.peak_gflops)


class Served(msgspec.Struct, frozen=True):
    """Requests with one item each, through the gateway and Triton."""

    items: str
    clients: int
    items_per_second: float
    median_ms: float
    rows_per_execution: float


class Results(msgspec.Struct, frozen=True):
    """All that was measured on CPUs."""

    machine: dict[str, str | int | float]
    geometry: str
    """Of the published model, by its name in vision_models.PUBLISHED."""
    whole: Weights
    """Of the published model."""
    here: Vision
    host_ms: float
    """The time of the host to lay out the photos, for each."""
    served: list[Served]
    rss_mib: dict[str, float]
    """By process, at the end."""

"""Retrieval quality between images and texts."""

from dataclasses import asdict, dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Found:
    """Shares of queries, in per cent, whose answer is among the first, and its median place."""

    top_1: float
    top_5: float
    top_10: float
    median: float

    @classmethod
    def at(cls, ranks: Tensor) -> "Found":
        """Sum up the places of answers, 1 being the first: [n]."""
        first, five, ten = (round(100 * (ranks <= place).float().mean().item(), 1) for place in (1, 5, 10))
        return cls(first, five, ten, ranks.float().median().item())

    def as_dict(self) -> dict[str, float]:
        """The values for JSON."""
        return asdict(self)


def image_to_text(images: Tensor, texts: Tensor, concept: Tensor) -> Tensor:
    """The place of each image's own text among all: unit vectors [n, d] and [concepts, d], [n] to [n]."""
    scores = images @ texts.T
    own = scores.gather(1, concept[:, None])
    return (scores > own).sum(1) + 1


def text_to_image(images: Tensor, texts: Tensor, concept: Tensor) -> Tensor:
    """The place of each image among all images when its own text is the query; no two show one concept."""
    scores = texts[concept] @ images.T
    return (scores > scores.diagonal()[:, None]).sum(1) + 1

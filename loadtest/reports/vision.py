"""What is measured of vision-language models, as tables of docs/performance.md."""

from collections.abc import Sequence
from statistics import median

from loadtest.tools.vision_results import LIBRARY, Results, Served, Speed, Vision, Weights


def section(results: Results) -> str:
    """All of a run on CPUs."""
    here, whole, about = results.here, results.whole, results.machine
    text, vision = here.layers
    photos, times = _photos(results)
    about_model = (
        f"{about['date']}, {about['cores']} cores of an {about['cpu']}, torch {about['torch']}, fp32. The model has"
        f" the geometry of {results.geometry}, but {text} text layers, {vision} vision layers and {here.words:,} ids:"
        f" {here.weights.all / 1e6:,.0f} million weights of {whole.all / 1e6:,.0f} million."
    )
    about_photos = (
        f"The {photos.images} photos have {photos.patches:,} patches and {photos.tokens:,} tokens in all. The whole"
        f" model multiplies {times:.1f} times as many weights for them, so it computes about {1 / times:.0%} as many a"
        f" second. The host lays out a photo in {results.host_ms:.2f} ms."
    )
    memory = ", ".join(f"{process} {mib:,.0f} MiB" for process, mib in results.rss_mib.items())
    paragraphs = (
        about_model,
        "\n".join(speeds(here)),
        about_photos,
        "Through the gateway and Triton, one item per request:",
        "\n".join(servers(results.served)),
        f"Resident memory at the end: {memory}.",
    )
    return "\n\n".join(paragraphs) + "\n"


def measured(results: Results) -> str:
    """What docs/models.md says of a run on CPUs."""
    here, about = results.here, results.machine
    photos, times = _photos(results)
    rate = photos.per_second(photos.images)
    served = max(one.items_per_second for one in results.served if one.items == photos.items)
    (process,) = (mib for name, mib in results.rss_mib.items() if name.startswith("model "))
    return (
        f"Measured on {about['date']} on {about['cores']} cores of an {about['cpu']} in fp32, with {here.layers[0]}"
        f" text and {here.layers[1]} vision layers of {results.geometry}: {rate:.2f} images/s in process and"
        f" {served:.2f} through the server. The model's process takes {process:,.0f} MiB, of which the weights are"
        f" {here.weights.all * 4 / 2**20:,.0f} MiB. The whole model does {times:.1f} times the products for an image:"
        f" by this, one in {times / rate:.0f} s.\n"
    )


def _photos(results: Results) -> tuple[Speed, float]:
    """The speed of photos, and how many times as many products the whole model takes for them."""
    photos = next(speed for speed in results.here.speeds if speed.images)
    counts = photos.patches, photos.tokens
    return photos, results.whole.flops(*counts) / results.here.weights.flops(*counts)


def speeds(one: Vision) -> Sequence[str]:
    """A row for each way in which items are computed."""
    head = ("items", "way", "items/s", "images/s", "patches/s", "tokens/s", "of the peak", "times the library")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for speed in one.speeds:
        others = (other for other in one.speeds if (other.items, other.way) == (speed.items, LIBRARY))
        ratio = median(a / b for a, b in zip(next(others).seconds, speed.seconds, strict=True))
        cells = [
            f"{speed.per_second(number):,.{digits}f}" if number else "-"
            for number, digits in ((speed.count, 2), (speed.images, 2), (speed.patches, 0), (speed.tokens, 0))
        ]
        lines.append(
            f"| {speed.items} | {speed.way} | {' | '.join(cells)} | {one.share(speed):.0%} | **{ratio:.2f}** |"
        )
    return lines


def servers(found: Sequence[Served]) -> Sequence[str]:
    """A row for each load."""
    lines = ["| items | clients | items/s | median | rows per execution |", "|---|---|---|---|---|"]
    lines += [
        f"| {one.items} | {one.clients} | {one.items_per_second:.2f} | {one.median_ms:,.0f} ms"
        f" | {one.rows_per_execution:.1f} |"
        for one in found
    ]
    return lines


def sizes(name: str, weights: Weights, patches: int, tokens: int) -> str:
    """A row about a published model.

    Args:
        name: its own.
        weights: its own.
        patches: of an image.
        tokens: of the same.
    """
    fp32, half = (weights.all * size / 2**30 for size in (4, 2))
    return (
        f"| {name} | {weights.all / 1e6:,.0f} M | {fp32:.1f} GiB | {half:.1f} GiB"
        f" | {weights.flops(patches, tokens) / 1e9:,.0f} GFLOP |"
    )

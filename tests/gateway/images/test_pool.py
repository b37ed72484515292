"""Real processes, and files that were made to fill them."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE
from typing import BinaryIO, TypeVar, cast

import numpy as np
import psutil
import pytest
from PIL import Image
from PIL.Image import Resampling

from gateway.errors import InvalidRequest, Overloaded
from gateway.images import preprocess
from gateway.images.pool import DecoderPool
from gateway.images.preparation import Patches, Preparation
from gateway.images.preprocess import BYTES_PER_PIXEL
from gateway.images.processors import AnyProcessor, Fixed, Smart, Tiles
from gateway.images.worker import CPU_S, Job, Needed, packed, read
from gateway.scheduling.turns import Account
from loadtest.tools import hostile
from loadtest.tools.pictures import file, scene

SMART = Smart(patch=16, merge=2, min_pixels=4096, max_pixels=1_310_720)
TILES = Tiles(patch=16, merge=4, tile=128, longest_edge=512, tile_text="", row_end="", whole_text="", single_text="")
PREPARATION = Preparation(48, 64, (48, 64), Resampling.BICUBIC)
GOOD = file(scene(60, 40, 0), "PNG")
LARGE = file(scene(2400, 2400, 0), "JPEG")
"""More than a process may take without asking."""

Result = TypeVar("Result")


def using(work: Callable[[DecoderPool], Awaitable[Result]], max_pixels: int = 40_000_000) -> Result:
    async def run() -> Result:
        decoders = DecoderPool(max_pixels)
        try:
            return await work(decoders)
        finally:
            await decoders.close()

    return asyncio.run(run())


def running() -> list[psutil.Process]:
    """The decoders of this process."""
    return [child for child in psutil.Process().children() if "gateway.images.worker" in command(child)]


def command(process: psutil.Process) -> list[str]:
    """Nothing of one that has just ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # zombies included
        return []


@pytest.mark.parametrize("content", [GOOD, LARGE], ids=["small", "large"])
def test_pixels_are_those_of_this_process(content: bytes) -> None:
    found = using(lambda decoders: decoders.read(content, PREPARATION, "image", Account()))
    here = preprocess.read(content, PREPARATION, "image", 40_000_000 * BYTES_PER_PIXEL, lambda _: None)
    assert found.shape == (3, 48, 64)
    assert found.tobytes() == here


@pytest.mark.parametrize("content", [GOOD, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("processor", [SMART, TILES], ids=["smart", "tiles"])
def test_patches_are_those_of_this_process(content: bytes, processor: AnyProcessor) -> None:
    found = using(lambda decoders: decoders.read(content, processor, "image", Account()))
    here = preprocess.read_patches(content, processor, "image", 40_000_000 * BYTES_PER_PIXEL, lambda _: None)
    assert (found.grids, found.tiles) == (here.grids, here.tiles)
    assert np.array_equal(found.pixels, here.pixels)


def test_result_of_any_size_is_received_within_the_limit_of_memory() -> None:
    """Decoding takes nearly all of the limit, and the patches take more than what is left."""
    large = Smart(patch=16, merge=2, min_pixels=2**20, max_pixels=2**22)
    content = file(Image.new("RGB", (2400, 2400)), "JPEG")

    async def work(decoders: DecoderPool) -> list[tuple[int, ...]]:
        both = (decoders.read(content, large, "image", Account()) for _ in range(2))
        return [patches.pixels.shape for patches in await asyncio.gather(*both)]

    assert using(work, 6_000_000) == [(128 * 128, 768)] * 2


def test_patches_in_flight_are_limited() -> None:
    """To 12 MiB here, half of it for one key; each of these images becomes 0.75 MiB."""
    square = Fixed(patch=16, height=512, width=512)

    async def work(decoders: DecoderPool) -> None:
        async def read(key: str) -> Patches:
            return await decoders.read(GOOD, square, "image", Account(key))

        first = [await read("a") for _ in range(8)]
        with pytest.raises(Overloaded, match="the image patches in flight with this API key reached the memory limit"):
            await read("a")
        second = [(await read("b")).pixels[1:2] for _ in range(8)]  # views count as all of their image
        with pytest.raises(Overloaded, match="the image patches in flight reached the memory limit"):
            await read("c")
        first.clear()
        second.clear()
        await asyncio.sleep(0)
        await read("c")

    using(work, 2**19)


def test_thousands_of_small_images_are_read() -> None:
    tiny = file(scene(4, 4, 0), "PNG")

    async def work(decoders: DecoderPool) -> int:
        images = (decoders.read(tiny, SMART, "image", Account()) for _ in range(2000))
        return sum(len(patches.pixels) for patches in await asyncio.gather(*images))

    assert using(work) == 2000 * 16


def test_thin_image_is_refused_with_its_place() -> None:
    with pytest.raises(InvalidRequest, match=r"^image has 1000 x 4 pixels; the longer side may be at most 200 times"):
        using(lambda decoders: decoders.read(file(scene(1000, 4, 0), "PNG"), SMART, "image", Account()))


def test_refusal_names_the_image() -> None:
    with pytest.raises(InvalidRequest, match=r"^input\[3\]\.image is not a PNG") as caught:
        using(lambda decoders: decoders.read(b"nonsense", PREPARATION, "input[3].image", Account()))
    assert caught.value.param == "input[3].image"


def test_processes_are_used_again_and_end_at_last() -> None:
    async def work(decoders: DecoderPool) -> set[int]:
        for _ in range(10):
            await decoders.read(GOOD, PREPARATION, "image", Account())
        return {process.pid for process in running()}

    assert len(using(work)) == 1
    assert running() == []


@pytest.mark.slow
@pytest.mark.parametrize("name", hostile.FILES)
@pytest.mark.parametrize("preparation", [PREPARATION, SMART], ids=["pixels", "patches"])
@pytest.mark.timeout(60)
def test_hostile_file_takes_no_more_than_it_may(name: str, preparation: Preparation | AnyProcessor) -> None:
    """It becomes pixels or a refusal, whichever, but another image beside it is not held up, and memory is bounded."""
    content = hostile.FILES[name]()

    async def work(decoders: DecoderPool) -> float:
        await asyncio.gather(*(decoders.read(GOOD, PREPARATION, "image", Account()) for _ in range(2)))
        before = sum(map(peak, running()))
        bad = asyncio.create_task(decoders.read(content, preparation, "image", Account()))
        await asyncio.sleep(0.05)
        highest = before
        started = time.thread_time()
        while not bad.done():
            await asyncio.sleep(0.1)  # to look takes time of this thread too
            highest = max(highest, sum(map(peak, running())))
        assert time.thread_time() - started < 1  # the work is done elsewhere
        assert bad.exception() is None or isinstance(bad.exception(), InvalidRequest)
        await decoders.read(GOOD, PREPARATION, "image", Account())
        return highest - before

    assert using(work) < 300


def peak(process: psutil.Process) -> float:
    """MiB that a process has had; 0 of one that is gone."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024 if "VmHWM:" in status else 0


@pytest.mark.slow
def test_file_that_takes_too_long_says_so() -> None:
    with pytest.raises(InvalidRequest, match=r"^image takes more than 5 s to decode$"):
        using(lambda decoders: decoders.read(hostile.jpeg_of_exif_parts(), PREPARATION, "image", Account()))


@pytest.mark.parametrize("name", ["a GIF of one large frame", "a thin PNG"])
def test_file_that_takes_more_memory_than_it_seems_to_says_so(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^image needs more memory to decode than an image of its size should$"):
        using(lambda decoders: decoders.read(hostile.FILES[name](), PREPARATION, "image", Account()))


def test_base64_of_spaces_is_decoded_within_memory() -> None:
    with pytest.raises(InvalidRequest, match=r"^image is not a PNG, JPEG, WebP"):
        using(lambda decoders: decoders.read(hostile.spaced_base64(), PREPARATION, "image", Account()))


def test_process_that_dies_fails_its_image_alone() -> None:
    async def work(decoders: DecoderPool) -> str:
        await decoders.read(GOOD, PREPARATION, "image", Account())
        for process in running():
            process.kill()
        with pytest.raises(InvalidRequest) as caught:
            await decoders.read(GOOD, PREPARATION, "image", Account())
        await decoders.read(GOOD, PREPARATION, "image", Account())
        return caught.value.message

    assert using(work) == "image cannot be decoded"


@pytest.mark.slow
def test_whoever_gives_up_ends_the_work() -> None:
    content = hostile.jpeg_of_exif_parts()

    async def work(decoders: DecoderPool) -> None:
        for _ in range(2 * len(os.sched_getaffinity(0))):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(decoders.read(content, PREPARATION, "image", Account()), 0.5)
        await asyncio.wait_for(decoders.read(GOOD, PREPARATION, "image", Account()), 5)
        await asyncio.wait_for(decoders.read(LARGE, PREPARATION, "image", Account()), 5)

    using(work)


def test_image_that_nobody_waits_for_is_finished_if_it_soon_can_be() -> None:
    """So that others find the process."""

    async def work(decoders: DecoderPool) -> set[int]:
        await decoders.read(GOOD, PREPARATION, "image", Account())
        found = {process.pid for process in running()}
        for _ in range(5):
            task = asyncio.create_task(decoders.read(GOOD, PREPARATION, "image", Account()))
            await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return found ^ {process.pid for process in running()}

    assert using(work) == set()


@pytest.mark.slow
def test_accounts_are_charged_for_what_their_images_cost() -> None:
    async def cost(decoders: DecoderPool, content: bytes) -> float:
        account = Account()
        with suppress(InvalidRequest):
            await decoders.read(content, PREPARATION, "image", account)
        return account.seconds

    async def work(decoders: DecoderPool) -> list[float]:
        return [await cost(decoders, content) for content in (LARGE, LARGE[:-5000], hostile.jpeg_of_exif_parts())]

    good, broken, slow = using(work)
    assert 0 < good < slow
    assert 0 < broken < slow
    assert slow == pytest.approx(CPU_S, abs=1)


@pytest.mark.slow
def test_keys_whose_images_are_slow_leave_a_process_for_others() -> None:
    slow = hostile.jpeg_of_exif_parts()

    async def work(decoders: DecoderPool) -> None:
        account = Account("hostile")
        held = [asyncio.create_task(decoders.read(slow, PREPARATION, "image", account)) for _ in range(16)]
        await asyncio.sleep(0.1)
        for _ in range(3):
            await decoders.read(GOOD, PREPARATION, "image", Account("other"))
        assert not any(task.done() for task in held)
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)

    using(work)


@pytest.mark.parametrize("content", [GOOD, LARGE], ids=["small", "large"])
def test_process_that_nobody_waits_for_ends_silently(content: bytes) -> None:
    command = (sys.executable, "-m", "gateway.images.worker")
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        source, sink, errors = cast(
            tuple[BinaryIO, BinaryIO, BinaryIO], (process.stdin, process.stdout, process.stderr)
        )
        source.write(packed(Job("image", PREPARATION, 40_000_000 * BYTES_PER_PIXEL, len(content), is_text=False)))
        if content is LARGE:
            source.write(content)
            source.flush()
            assert read(sink, Needed)
            source.close()
            assert sink.read() == b""
        else:
            sink.close()
            source.write(content)
            source.close()
        assert errors.read() == b""


def test_large_images_take_turns_and_give_back_what_they_held() -> None:
    """Each takes all that there is."""
    broken = LARGE[:-5000]

    async def work(decoders: DecoderPool) -> list[object]:
        files = [LARGE if i % 2 else broken for i in range(8)]
        reads = (decoders.read(content, PREPARATION, "image", Account()) for content in files)
        return await asyncio.gather(*reads, return_exceptions=True)

    found = using(work, max_pixels=2400 * 2400)
    assert [isinstance(one, np.ndarray) for one in found] == [False, True] * 4

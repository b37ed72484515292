import itertools

import numpy as np
import pytest
from tokenizers import Tokenizer

from export.tower import Vocabulary
from export.verification import samples
from loadtest.tools import tiny


def vocabulary(max_tokens: int) -> Vocabulary:
    fast = tiny.wordpiece()
    return Vocabulary(Tokenizer.from_str(fast.backend_tokenizer.to_str()), len(fast), max_tokens, padding=0)


@pytest.mark.parametrize("limit", [8, 100, 377, 512, 8192])
def test_lengths_reach_from_three_tokens_to_the_limit(limit: int) -> None:
    found = samples.lengths(vocabulary(limit))
    assert (found[0], found[-1]) == (3, limit)
    assert found == sorted(set(found))


@pytest.mark.parametrize("characters", [1, 500, 100_000])
def test_text_is_as_long_as_asked_for_wherever_it_begins(characters: int) -> None:
    assert {len(samples.text(start, characters)) for start in (0, 1, len(samples.TEXTS) + 2)} == {characters}


def test_row_is_a_text_with_its_special_tokens_cut_to_length() -> None:
    words = vocabulary(512)
    ids = samples.ids(words, start=2, length=90)
    assert (len(ids), ids.dtype) == (90, np.dtype(np.int64))
    first, *middle, last = ids.tolist()
    assert (first, last) == (2, 3)  # [CLS], [SEP]
    assert not {2, 3} & set(middle)
    assert words.tokenizer.encode(samples.text(2, 4000)).ids[:89] == [first, *middle]


def test_single_rows_differ_in_length_and_text() -> None:
    rows = [ids.tolist() for (ids,) in samples.single_rows(vocabulary(100))]
    assert [len(ids) for ids in rows] == samples.lengths(vocabulary(100))
    assert not any(long[: len(short) - 1] == short[:-1] for short, long in itertools.pairwise(rows[2:]))


def test_texts_to_calibrate_on_are_not_those_to_rank() -> None:
    seen, unseen = samples.calibration(), samples.unseen()
    assert len(seen) == samples.CALIBRATION
    assert len(set(unseen)) == len(unseen) == samples.UNSEEN
    assert not set(seen) & set(unseen)
    assert (samples.calibration(), samples.unseen()) == (seen, unseen)


def test_whole_texts_end_at_the_limit() -> None:
    words = vocabulary(8)
    (short,), (long,) = samples.whole_rows(words, ["a", samples.text(0, 400)])
    assert short.tolist() == words.tokenizer.encode("a").ids
    assert (len(long), long.dtype) == (8, np.dtype(np.int64))


def test_pairs_repeat_their_queries_over_documents_of_every_length() -> None:
    pairs = [(tuple(query.tolist()), len(document)) for query, document in samples.paired_rows(vocabulary(100))]
    queries = list(dict.fromkeys(query for query, _ in pairs))
    assert [len(query) for query in queries] == [5, 12, 50]
    assert pairs == [(query, length) for query in queries for length in samples.lengths(vocabulary(100))]


def test_images_are_bytes_of_one_size_from_black_to_white_and_in_between() -> None:
    images = samples.images(20, 24)
    assert {(image.shape, image.dtype.name) for image in images} == {((3, 20, 24), "uint8")}
    assert [int(image.max()) for image in images if image.min() == image.max()] == [0, 128, 255]
    assert len({image.tobytes() for image in images}) == len(images)

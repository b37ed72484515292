import copy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, CLIPImageProcessor, PreTrainedModel

from export.manifest import Backend
from export.packing.encoder import RowEncoder
from export.packing.heads import (
    POOLINGS,
    Encode,
    ImageEmbedding,
    LateInteraction,
    Outputs,
    Pool,
    Project,
    TextEmbedding,
)
from export.packing.rows import PackedRows, Rows
from loadtest.tools import tiny

LENGTHS = (3, 40, 1, 17)
MASK = 4
GRAPHS = pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"], ids=["packed", "padded"])
FORMS = pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt", "torch"], ids=["packed", "padded", "laid out"])


@cache
def bert() -> PreTrainedModel:
    made: PreTrainedModel = AutoModel.from_config(tiny.config("BERT")).eval().requires_grad_(requires_grad=False)
    tiny.stir(made)
    return made


def rows(*texts: list[int], of: list[int] | None = None) -> Rows:
    """Padded rows; `of` is their lengths where some have none."""
    length = torch.tensor(of or [len(ids) for ids in texts])
    ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.int64)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = torch.tensor(text)
    return Rows(ids, length, length)


def laid_out(*texts: list[int]) -> PackedRows:
    return PackedRows.of([torch.tensor(ids, dtype=torch.int64) for ids in texts])


def text(length: int, seed: int = 0) -> list[int]:
    ids: list[int] = np.random.default_rng([length, seed]).integers(5, 250, length).tolist()
    return ids


def pooled(modes: str | tuple[str, ...], hidden: Tensor, length: Tensor) -> Tensor:
    mask = torch.arange(hidden.shape[1])[None] < length[:, None]
    features = {"token_embeddings": hidden, "attention_mask": mask.long()}
    vectors: Tensor = Pooling(hidden.shape[2], modes)(features)["sentence_embedding"]
    return vectors


@pytest.mark.parametrize("mode", Pooling.POOLING_MODES)
def test_every_pooling_is_that_of_sentence_transformers(mode: str) -> None:
    length = torch.tensor(LENGTHS)
    # What stands behind a row's end is large, so that it would be seen.
    hidden = torch.randn(4, 40, 8, generator=torch.Generator().manual_seed(1))
    hidden[torch.arange(40)[None] >= length[:, None]] = 1e3
    given = Rows(torch.zeros(4, 40, dtype=torch.int64), length, length)
    torch.testing.assert_close(POOLINGS[mode](hidden, given), pooled(mode, hidden, length))
    packed = laid_out(*([0] * n for n in LENGTHS))
    tokens = torch.cat([row[:n] for row, n in zip(hidden, LENGTHS, strict=True)])[None]
    torch.testing.assert_close(POOLINGS[mode](tokens, packed)[:-1], pooled(mode, hidden, length))


@pytest.mark.parametrize("mode", sorted(POOLINGS))
def test_poolings_leave_out_the_prompt_as_those_of_sentence_transformers(mode: str) -> None:
    hidden = torch.randn(4, 40, 8, generator=torch.Generator().manual_seed(1))
    length = torch.tensor([3, 40, 4, 17])
    for prompt in (0, 2):
        given = Rows(torch.zeros(4, 40, dtype=torch.int64), length, length, prompt_length=torch.full((4,), prompt))
        features = {
            "token_embeddings": hidden,
            "attention_mask": given.valid.to(torch.int64),
            "prompt_length": prompt,
        }
        expected = Pooling(8, mode, include_prompt=False)(features)["sentence_embedding"]
        torch.testing.assert_close(POOLINGS[mode](hidden, given), expected)
        packed = replace(laid_out(*([0] * n for n in length.tolist())), prompt_length=torch.tensor([prompt] * 4 + [0]))
        tokens = torch.cat([row[:n] for row, n in zip(hidden, length.tolist(), strict=True)])[None]
        torch.testing.assert_close(POOLINGS[mode](tokens, packed)[:-1], expected)


@FORMS
def test_several_poolings_stand_side_by_side_before_the_projection(backend: Backend) -> None:
    modes, projection = ("max", "cls", "mean"), torch.nn.Linear(3 * tiny.WIDTH, 8)
    texts = [text(length) for length in LENGTHS]
    head = TextEmbedding(Encode(RowEncoder(bert(), backend)), [Pool(*modes), Project(projection)])
    expected = [
        projection(pooled(modes, bert()(torch.tensor([ids])).last_hidden_state, torch.tensor([len(ids)])))
        for ids in texts
    ]
    embedded = (head(laid_out(*texts)) if backend == "torch" else head(rows(*texts)))["embedding"][: len(texts)]
    torch.testing.assert_close(embedded, torch.cat(expected), atol=1e-5, rtol=1e-5)


def max_sim(
    query: list[int], document: list[int], *, expansion: int = 0, attended: bool = True, skipped: tuple[int, ...] = ()
) -> Tensor:
    """The score of one pair, by transformers and the formula of the paper."""
    missing = max(0, expansion - len(query))
    mask = torch.tensor([[1] * len(query) + [int(attended)] * missing])
    queried = bert()(torch.tensor([query + [MASK] * missing]), attention_mask=mask).last_hidden_state[0]
    kept = torch.tensor([id_ not in skipped for id_ in document])
    documented = bert()(torch.tensor([document])).last_hidden_state[0][kept]
    return functional.cosine_similarity(queried[:, None], documented[None], dim=-1).amax(1).mean()


PAIRS = [(text(q, seed), text(d)) for q, seed, d in [(5, 0, 3), (5, 0, 40), (12, 0, 17), (5, 1, 40), (5, 0, 17)]]
"""Queries that repeat, as they do in rerank, and one that only differs in its tokens."""


def score(head: LateInteraction, backend: Backend, *, expansion: int = 0, attended: bool = True) -> Tensor:
    """The scores of all pairs; a host expands queries itself."""
    if backend == "torch":
        queries = [query + [MASK] * max(0, expansion - len(query)) for query, _ in PAIRS]
        packed = laid_out(*queries, *(document for _, document in PAIRS))
        of_pairs = replace(packed, queries=torch.arange(len(PAIRS)).int(), longest_query=16)
        if not attended:
            visible = torch.tensor([len(text) for pair in zip(*PAIRS, strict=True) for text in pair] + [0])
            keys = (packed.place < visible[packed.row]).nonzero()[:, 0]
            of_pairs = replace(of_pairs, visible=visible.int(), keys=keys.int())
        scored: Tensor = head(of_pairs)["score"]
        return scored
    outputs: Outputs = head(rows(*(query for query, _ in PAIRS)), rows(*(document for _, document in PAIRS)))
    return outputs["score"]


@FORMS
def test_score_is_the_mean_of_the_best_cosines(backend: Backend) -> None:
    head = LateInteraction(RowEncoder(bert(), backend), torch.nn.Identity(), lambda query: query, {})
    expected = torch.stack([max_sim(query, document) for query, document in PAIRS])[:, None]
    torch.testing.assert_close(score(head, backend), expected, atol=1e-5, rtol=0)


@FORMS
@pytest.mark.parametrize("attended", [True, False])
def test_expanded_queries_score_with_what_fills_them(backend: Backend, attended: bool) -> None:
    head = LateInteraction(
        RowEncoder(bert(), backend),
        torch.nn.Identity(),
        lambda query: query.expanded(9, MASK, attended=attended),
        {},
    )
    expected = [max_sim(query, document, expansion=9, attended=attended) for query, document in PAIRS]
    torch.testing.assert_close(
        score(head, backend, expansion=9, attended=attended), torch.stack(expected)[:, None], atol=1e-5, rtol=0
    )


@FORMS
def test_skipped_document_tokens_are_compared_with_nothing(backend: Backend) -> None:
    skipped = tuple(PAIRS[1][1][::2])
    head = LateInteraction(RowEncoder(bert(), backend), torch.nn.Identity(), lambda query: query, {"document": skipped})
    expected = [max_sim(query, document, skipped=skipped) for query, document in PAIRS]
    torch.testing.assert_close(score(head, backend), torch.stack(expected)[:, None], atol=1e-5, rtol=0)


@FORMS
def test_vectors_of_a_document_need_no_query(backend: Backend) -> None:
    head = LateInteraction(
        RowEncoder(bert(), backend), torch.nn.Identity(), lambda query: query.expanded(9, MASK, attended=True), {}
    )
    documents = [document for _, document in PAIRS]
    none: list[int] = []
    for queries in ([none] * 5, [none, text(4), none, text(4), text(2)]):
        if backend == "torch":
            packed = laid_out(*([*query, *[MASK] * (9 - len(query))] if query else [] for query in queries), *documents)
            outputs: Outputs = head(replace(packed, queries=torch.arange(5).int(), longest_query=16))
            tokens = outputs["tokens"][0][-sum(map(len, documents)) :].split([len(ids) for ids in documents])
        else:
            outputs = head(
                rows(*(query or [0] for query in queries), of=[len(query) for query in queries]), rows(*documents)
            )
            tokens = tuple(vectors[: len(ids)] for vectors, ids in zip(outputs["tokens"], documents, strict=True))
        for vectors, ids in zip(tokens, documents, strict=True):
            torch.testing.assert_close(vectors, bert()(torch.tensor([ids])).last_hidden_state[0], atol=1e-5, rtol=1e-5)
        assert (outputs["score"][:, 0] != 0).tolist() == [bool(query) for query in queries]


@GRAPHS
def test_same_text_scores_one_and_in_bf16_not_more(backend: Backend) -> None:
    # bf16 rounds the cosine of a vector with itself to more than 1 about as often as to less.
    texts = [text(length) for length in range(1, 20)]
    for dtype, lowest in ((torch.float32, 0.99999), (torch.bfloat16, 0.98)):
        encoder = RowEncoder(copy.deepcopy(bert()), backend).to(dtype)
        scores = LateInteraction(encoder, torch.nn.Identity(), lambda query: query, {})(rows(*texts), rows(*texts))[
            "score"
        ]
        assert lowest < scores.min()
        assert scores.max() <= 1


def test_query_tokens_that_are_padding_elsewhere_are_told_apart() -> None:
    # Ids of 0 are tokens of some vocabularies, and what stands behind the end of a row in others.
    pairs = [([7, 8], text(9)), ([7, 8, 0], text(9))]
    head = LateInteraction(RowEncoder(bert(), "python"), torch.nn.Identity(), lambda query: query, {})
    scores = head(rows(*(query for query, _ in pairs)), rows(*(document for _, document in pairs)))["score"]
    expected = torch.stack([max_sim(query, document) for query, document in pairs])[:, None]
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
    assert scores[0] != scores[1]


def test_images_are_rescaled_and_normalized_as_their_processor_does() -> None:
    mean, deviation = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]
    processor = CLIPImageProcessor(do_resize=False, do_center_crop=False, image_mean=mean, image_std=deviation)
    image = np.random.default_rng(3).integers(0, 256, (5, 7, 3), np.uint8)
    head = ImageEmbedding(torch.nn.Flatten(), 1 / 255, mean, deviation)
    expected = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(head(torch.from_numpy(image.transpose(2, 0, 1))[None])["embedding"], expected.flatten(1))

"""Decoders that are known to rank, and the prompts in which they read a query and a document."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

QUERY, DOCUMENT, INSTRUCTION = "{query}", "{document}", "{instruction}"
BORDER = "{|}"
"""A border that no token crosses: the texts on its two sides were tokenized separately in training."""
LOGIT_SCORE = "has to be a folder that sentence-transformers saved, with the modules Transformer and LogitScore"
"""What a reranker that reads images needs, since nothing else says how it is asked."""


@dataclass(frozen=True, slots=True)
class PairTemplate:
    """The template of a row, as text."""

    text: str
    """The template with a place for the query, followed by one for the document."""
    instructed: str | None = None
    """The template with a place for an instruction instead of the model's own; None if it has none."""


@dataclass(frozen=True, slots=True)
class Reranker:
    """A decoder that is known to rank."""

    template: PairTemplate
    true_token: str
    """The answer that means relevant."""
    false_token: str | None
    """The answer that means not relevant. Without it the logit of `true_token` is the score."""
    sources: Sequence[str]
    """Patterns of their names on the hub."""


def with_default(text: str, instruction: str) -> PairTemplate:
    """A template whose place for an instruction is never empty."""
    return PairTemplate(text.replace(INSTRUCTION, instruction), text)


_MXBAI = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{|}%squery: {query}{|}\n{|}document: {document}{|}\n{|}"
    "You are a search relevance expert who evaluates how well documents match search queries. For each query-document"
    " pair, carefully analyze the semantic relationship between them, then provide your binary relevance judgment"
    " (0 for not relevant, 1 for relevant).\nRelevance:{|}<|im_end|>\n<|im_start|>assistant\n"
)

RERANKERS: Mapping[str, Reranker] = {
    # The model card of Qwen/Qwen3-Reranker-0.6B, and the chat template beside its weights.
    "qwen3-reranker": Reranker(
        with_default(
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct"
            ' provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
            "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n",
            "Given a web search query, retrieve relevant passages that answer the query",
        ),
        true_token="yes",  # noqa: S106 - a token of text
        false_token="no",  # noqa: S106
        sources=("Qwen/Qwen3-Reranker-*",),
    ),
    # MxbaiRerankV2 of the package mxbai-rerank, which tokenizes these parts one by one.
    "mxbai-rerank-v2": Reranker(
        PairTemplate(_MXBAI % "", _MXBAI % "instruction: {instruction}\n"),
        true_token="1",  # noqa: S106
        false_token="0",  # noqa: S106
        sources=("mixedbread-ai/mxbai-rerank-*-v2",),
    ),
    # BaseLLMReranker of the package FlagEmbedding, which does so too.
    "bge-reranker-v2-gemma": Reranker(
        with_default(
            "<bos>{|}A: {query}{|}\n{|}B: {document}{|}\n{|}{instruction}",
            "Given a query A and a passage B, determine whether the passage contains an answer to the query by"
            " providing a prediction of either 'Yes' or 'No'.",
        ),
        true_token="Yes",  # noqa: S106
        false_token=None,
        sources=("BAAI/bge-reranker-v2-gemma",),
    ),
}
"""The known rerankers, by the name that a table's `template` may have."""

from pathlib import Path

import pytest

from export.sources import card

FRONT = """\
---
license: mit
pipeline_tag: feature-extraction
tags:
- sentence-transformers
- ColBERT
---
# A model
"""


def write(folder: Path, text: str) -> Path:
    (folder / "README.md").write_text(text)
    return folder


def test_front_of_a_card_is_read(tmp_path: Path) -> None:
    read = card.read(write(tmp_path, FRONT))
    assert (read.license, read.pipeline) == ("mit", "feature-extraction")
    assert read.tags == {"sentence-transformers", "colbert"}


def test_folder_without_a_card_says_nothing(tmp_path: Path) -> None:
    assert card.read(tmp_path) == card.Card()


@pytest.mark.parametrize(
    ("front", "license_"),
    [
        ("license: other\nlicense_name: gemma", "gemma"),
        ("license: other", None),
        ("license:\n- apache-2.0", "apache-2.0"),
        ("license:\n- apache-2.0\n- mit", None),
        ("license: 5", None),
        ('license: "a\\nb"', None),
        (f"license: {'x' * 101}", None),
    ],
)
def test_license_is_its_identifier_or_its_name(tmp_path: Path, front: str, license_: str | None) -> None:
    assert card.read(write(tmp_path, f"---\n{front}\n---\n")).license == license_


@pytest.mark.parametrize("front", ["a: [", "- a", "[" * 5000, "!!python/object/apply:os.system ['true']"])
def test_broken_front_leaves_the_text(tmp_path: Path, front: str) -> None:
    read = card.read(write(tmp_path, f"---\n{front}\n---\nmean pooling"))
    assert (read.license, read.poolings) == (None, ("mean",))


def test_card_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    assert card.read(write(tmp_path, FRONT + "x" * card.MOST_BYTES)) == card.Card()


@pytest.mark.parametrize(
    ("text", "poolings"),
    [
        ("def mean_pooling(model_output, attention_mask):", ("mean",)),
        ("def average_pool(last_hidden_states, attention_mask):", ("mean",)),
        ("def last_token_pool(last_hidden_states, attention_mask):", ("lasttoken",)),
        ("# Perform pooling. In this case, cls pooling.\nsentence_embeddings = model_output[0][:, 0]", ("cls",)),
        ("embeddings = outputs.last_hidden_state[:, 0]", ("cls",)),
        ("Pooling({'pooling_mode_cls_token': False, 'pooling_mode_mean_tokens': True})", ("mean",)),
        ("Pooling({'embedding_dimension': 384, 'pooling_mode': 'cls'})", ("cls",)),
        ("mean pooling works better than CLS pooling", ("cls", "mean")),
        ("a pool of sentences", ()),
    ],
)
def test_poolings_are_those_that_the_text_speaks_of(text: str, poolings: tuple[str, ...]) -> None:
    assert card.Card(text=text).poolings == poolings


def test_matryoshka_sizes_are_those_of_the_loss() -> None:
    text = 'MatryoshkaLoss with these parameters:\n```json\n{\n "matryoshka_dims": [\n  64,\n  256,\n  128\n ]\n}\n```'
    assert card.Card(text=text).dimensions == (256, 128, 64)
    assert card.Card(text=text).is_matryoshka


def test_further_reading_of_every_card_is_no_matryoshka() -> None:
    text = "- [Introduction to Matryoshka Embedding Models](https://huggingface.co/blog/matryoshka): sizes"
    assert not card.Card(text=text).is_matryoshka
    assert card.Card(text="trained with Matryoshka Representation Learning").is_matryoshka


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("['query: how much', \"passage: As a general\"]", {"query": "query: ", "document": "passage: "}),
        ("`search_query: a` `search_document: b`", {"query": "search_query: ", "document": "search_document: "}),
        ("'query: how much'", {}),
        ('{"query": "a", "passage": "b"}', {}),
    ],
)
def test_prompts_are_what_examples_begin_with(text: str, prompts: dict[str, str]) -> None:
    assert card.Card(text=text).prompts == prompts

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from gateway.catalog import Model, TextModel
from gateway.errors import InvalidRequest
from gateway.service.prompts import choose, for_purpose
from gateway.text.tokenizer import TextTokenizer
from tests.gateway.service.vision import CHAT, text_model

PROMPTS = {"query": "q: ", "passage": "p: ", "STS-B": "s: "}


def triton_model(
    entries: Path, prompts: dict[str, str], default: str = "", instructed: dict[str, str] | None = None
) -> TextModel:
    tokenizer = TextTokenizer.from_file(entries / "all-minilm-l6-v2" / "tokenizer.json")
    return TextModel("m", "m", "text-embedding", {}, 64, 256, 30522, tokenizer, prompts, default, instructed or {})


@pytest.mark.parametrize(
    ("purpose", "expected"),
    [
        (None, "d: "),
        ("STS-B", "s: "),
        ("search_query", "q: "),
        ("retrieval.query", "q: "),
        ("document", "p: "),
        ("search_document", "p: "),
        ("clustering", "d: "),
    ],
)
def test_purposes_of_all_vendors_find_the_prompt(entries: Path, purpose: str | None, expected: str) -> None:
    assert choose(triton_model(entries, PROMPTS, "d: "), purpose, "task") == expected


def test_exact_name_takes_precedence_over_synonyms(entries: Path) -> None:
    own = {"query": "q: ", "retrieval.query": "r: "}
    assert choose(triton_model(entries, own), "retrieval.query", "task") == "r: "


def test_model_without_prompts_accepts_every_purpose(entries: Path) -> None:
    assert choose(triton_model(entries, {}), "search_query", "input_type") == ""


@pytest.mark.parametrize("purpose", ["query", "search_document"])
def test_search_purposes_never_use_the_default_prompt(entries: Path, purpose: str) -> None:
    assert choose(triton_model(entries, {"news": "n: "}, "n: "), purpose, "input_type") == ""


def test_unknown_purpose_names_its_field(entries: Path) -> None:
    with pytest.raises(
        InvalidRequest, match="unknown task 'cooking'; model 'm' accepts: query, passage, STS-B, search_"
    ):
        choose(triton_model(entries, PROMPTS), "cooking", "task")


INSTRUCT = {"query": "Instruct: find it\nQuery: ", "passage": ""}
FORMS = {INSTRUCT["query"]: "Instruct: {instruction}\nQuery: "}


@pytest.mark.parametrize("purpose", [None, "query", "search_query"])
@pytest.mark.parametrize("instruction", ["rank shells", "{instruction}\nQuery: {query}"])
def test_instruction_replaces_that_of_the_prompt(entries: Path, purpose: str | None, instruction: str) -> None:
    chosen = choose(triton_model(entries, INSTRUCT, instructed=FORMS), purpose, "task", instruction)
    assert chosen == f"Instruct: {instruction}\nQuery: "


def test_unsupported_instruction_names_its_field(entries: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"^model 'm' does not support instruction$") as caught:
        choose(triton_model(entries, PROMPTS), None, "task", "rank shells")
    assert caught.value.param == "instruction"
    with pytest.raises(InvalidRequest, match=r"^model 'm' does not support instruction with its prompt ''$"):
        choose(triton_model(entries, INSTRUCT, instructed=FORMS), "document", "task", "rank shells")


@pytest.mark.parametrize(
    ("variants", "purpose", "expected"),
    [
        ("document,query", None, "document"),
        ("document,query", "search_query", "query"),
        ("document,query", "retrieval.passage", "document"),
        ("document,query", "classification", "document"),
        ("retrieval_query,retrieval_passage,separation", "clustering", "separation"),
        ("retrieval_query,retrieval_passage,separation", "passage", "retrieval_passage"),
        ("text-matching,retrieval", "query", "retrieval"),
        ("text-matching,retrieval", "retrieval", "retrieval"),
        ("text-matching,code", "code", "code"),
        ("", "query", ""),
    ],
)
def test_purposes_of_all_vendors_find_the_variant(
    entries: Path, variants: str, purpose: str | None, expected: str
) -> None:
    names = tuple(filter(None, variants.split(",")))
    triton_models = {
        name: replace(triton_model(entries, {}, "d: "), variants=names, variant=name) for name in names or ("",)
    }
    first = next(iter(triton_models.values()))
    model = Model("m", (), True, 0, (), 0.5, text=first, variants=triton_models if names else {})
    found = for_purpose(model, purpose).text
    assert found is not None
    assert found.variant == expected
    assert choose(found, purpose, "task") in {"", "d: "}  # no variant is an unknown purpose


def test_unknown_purpose_names_the_variants(entries: Path) -> None:
    own = replace(triton_model(entries, {}), variants=("code", "text"), variant="code")
    with pytest.raises(InvalidRequest, match="unknown task 'cooking'; model 'm' accepts: code, text, query, search_"):
        choose(own, "cooking", "task")


def test_template_takes_an_instruction_on_the_side_that_has_a_place_for_it() -> None:
    """On the other side it would stand before the text, where both together may be a special token."""
    query = "<|im_start|>{instruction}\nQuery: {content}<|im_end|>"
    own = text_model("late-interaction", chat=msgspec.structs.replace(CHAT, text="", query=query))
    assert choose(own, "query", "task", "Find it.") == "Find it."
    with pytest.raises(InvalidRequest, match="model 'm' does not support instruction"):
        choose(own, "document", "task", "Find it.<|im_")
    with pytest.raises(InvalidRequest, match=r"instruction contains '<\|im_end\|>', a special token of model 'm'"):
        choose(own, "query", "task", "Find it.<|im_end|>")

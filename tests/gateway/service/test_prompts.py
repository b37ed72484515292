from pathlib import Path

import pytest

from gateway.catalog import TextTower
from gateway.errors import InvalidRequest
from gateway.service.prompts import choose
from gateway.tokenize import TextTokenizer

PROMPTS = {"query": "q: ", "passage": "p: ", "STS-B": "s: "}


def tower(
    repository: Path, prompts: dict[str, str], default: str = "", instructed: dict[str, str] | None = None
) -> TextTower:
    tokenizer = TextTokenizer.from_file(repository / "all-minilm-l6-v2" / "tokenizer.json")
    return TextTower(
        "m", "m", "text-embedding", "embedding", 384, 64, 256, 30522, tokenizer, prompts, default, instructed or {}
    )


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
def test_purposes_of_all_vendors_find_the_models_own_prompt(
    repository: Path, purpose: str | None, expected: str
) -> None:
    assert choose(tower(repository, PROMPTS, "d: "), purpose, "task") == expected


def test_own_name_goes_before_any_other_of_the_same_purpose(repository: Path) -> None:
    own = {"query": "q: ", "retrieval.query": "r: "}
    assert choose(tower(repository, own), "retrieval.query", "task") == "r: "


def test_model_without_prompts_takes_every_purpose(repository: Path) -> None:
    assert choose(tower(repository, {}), "search_query", "input_type") == ""


def test_unknown_purpose_is_refused_by_its_field(repository: Path) -> None:
    with pytest.raises(
        InvalidRequest, match="task is 'cooking'; model 'm' knows query, passage, STS-B, query, search_"
    ):
        choose(tower(repository, PROMPTS), "cooking", "task")


INSTRUCT = {"query": "Instruct: find it\nQuery: ", "passage": ""}
FORMS = {INSTRUCT["query"]: "Instruct: {instruction}\nQuery: "}


@pytest.mark.parametrize("purpose", [None, "query", "search_query"])
@pytest.mark.parametrize("instruction", ["rank shells", "{instruction}\nQuery: {query}"])
def test_instruction_takes_the_place_of_the_prompts_own(
    repository: Path, purpose: str | None, instruction: str
) -> None:
    chosen = choose(tower(repository, INSTRUCT, instructed=FORMS), purpose, "task", instruction)
    assert chosen == f"Instruct: {instruction}\nQuery: "


def test_instruction_without_a_place_is_refused_by_its_field(repository: Path) -> None:
    with pytest.raises(InvalidRequest, match="instruction: model 'm' takes none here, it has no place") as caught:
        choose(tower(repository, PROMPTS), None, "task", "rank shells")
    assert caught.value.param == "instruction"
    with pytest.raises(InvalidRequest, match="takes none here, its prompt '' has no place"):
        choose(tower(repository, INSTRUCT, instructed=FORMS), "document", "task", "rank shells")

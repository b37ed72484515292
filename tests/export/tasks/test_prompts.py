import pytest

from export.tasks.prompts import describe_prompts


def test_empty_prompts_are_none_of_a_models() -> None:
    assert not any(describe_prompts({"query": ""}, "query").values())


@pytest.mark.parametrize(
    ("prompt", "form"),
    [
        # Qwen3-Embedding, multilingual-e5-large-instruct, and one with a space before its line's end.
        ("Instruct: Given a web search query, retrieve passages\nQuery:", "Instruct: {instruction}\nQuery:"),
        ("Instruct: Retrieve: text\nQuery: ", "Instruct: {instruction}\nQuery: "),
        ("Instruct: Retrieve text \nQuery:", "Instruct: {instruction} \nQuery:"),
        ("query: ", None),
        ("Instruct: Retrieve text\nPassage: ", None),
        ("Instruct: \nQuery: ", None),
    ],
)
def test_prompt_of_the_known_form_has_a_place_for_an_instruction(prompt: str, form: str | None) -> None:
    assert describe_prompts({"q": prompt, "d": "passage: "}, "d") == {
        "prompts": {"q": prompt, "d": "passage: "},
        "default_prompt": "d",
        "instructed_prompts": {"q": form} if form else {},
    }

import pytest

from loadtest.experiments.stages import OTHER, stage


@pytest.mark.parametrize(
    ("stack", "expected"),
    [
        (
            [
                "run (/x/uvicorn/server.py:1)",
                "encode (/x/gateway/text/tokenizer.py:9)",
                "_helper (/x/tokenizers/a.py:1)",
            ],
            "tokenize",
        ),
        (["create (/x/gateway/routes/embeddings.py:9)", "run (/x/gateway/service/text_batches.py:9)"], "plan and pad"),
        (
            ["create (/x/gateway/routes/embeddings.py:9)", "write (/x/gateway/routes/embeddings.py:30)"],
            "write the reply",
        ),
        (["main (/x/asyncio/base_events.py:1)"], OTHER),
    ],
)
def test_innermost_frame_that_is_known_decides(stack: list[str], expected: str) -> None:
    assert stage(stack) == expected

from pathlib import Path

import pytest

from gateway.catalog import Model, TextModel
from gateway.errors import InvalidRequest
from gateway.routes import encodings
from gateway.text.tokenizer import TextTokenizer
from gateway.triton import Output


def test_declared_dimensions_are_of_vectors_with_the_models_width(entries: Path) -> None:
    tokenizer = TextTokenizer.from_file(entries / "all-minilm-l6-v2" / "tokenizer.json")
    outputs = {"embedding": Output("embedding", "FP32", (8,)), "tokens": Output("tokens", "FP32", (-1, 6))}
    text = TextModel("m", "m", "text-embedding", outputs, 64, 40, 30522, tokenizer)
    model = Model("m", (), default=True, created=0, dimensions=(4,), text_weight=0.5, text=text)
    assert encodings.size(model, 4) == 4
    with pytest.raises(InvalidRequest, match="dimensions is 4; model 'm' supports 6"):
        encodings.size(model, 4, kind="multi_vector")

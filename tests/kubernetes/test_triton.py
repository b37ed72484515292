"""A real Triton, started with the options of the manifests: an older one than theirs, which knows all of them."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, model_config_pb2
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from embedded.triton import Ports, Triton
from gateway.triton import Output
from gateway.triton import Triton as Client
from loadtest import perf
from loadtest.tools.servers import free_ports, wait_until_ready

START_TIMEOUT_S = 240
KEY = "4b9f"
"""In place of the pod's uid."""


def options() -> list[str]:
    deployment: Any = next(iter(yaml.safe_load_all(Path("kubernetes/base/triton.yaml").read_text())))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    program, repository, *others = container["args"]
    assert (program, repository) == ("tritonserver", "--model-repository=$(REPOSITORY)")
    return [option.replace("$(POD_UID)", KEY) for option in others]


@pytest.fixture(scope="module")
def ports(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    ports = Ports(*free_ports(3))
    scratch = tmp_path_factory.mktemp("triton")
    linked = scratch / "current"  # as the init container of a GPU's pod makes it
    linked.mkdir()
    for entry in repository.iterdir():
        (linked / entry.name).symlink_to(entry.absolute())
    triton = Triton.prepare(linked, ports, scratch)
    of_this_machine = (
        "--model-repository",
        "--backend",
        "--http-address",
        "--http-port",
        "--grpc-address",
        "--grpc-port",
        "--metrics",
    )
    ours = [option for option in triton.command[1:] if option.startswith(of_this_machine)]
    with (scratch / "log").open("wb") as log:
        process = subprocess.Popen(
            [triton.command[0], *ours, *options()], env=triton.environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        ready = f"http://127.0.0.1:{ports.http}/v2/health/ready"
        wait_until_ready(process, ready, scratch / "log", START_TIMEOUT_S)
        yield ports
    finally:
        process.terminate()
        process.wait(30)
        triton.clean_up()


def test_gateway_finds_and_uses_the_models_by_name(ports: Ports) -> None:
    async def use() -> None:
        client = Client([f"dns:///localhost:{ports.grpc}"], timeout_s=10)
        assert await client.is_live()
        assert "all-minilm-l6-v2" in {model.name for model in await client.models()}
        row: dict[str, NDArray[np.generic]] = {
            "input_ids": np.array([[101, 102]], np.int64),
            "length": np.array([[2]], np.int32),
        }
        (answer,) = await client.infer("all-minilm-l6-v2", row, [Output("embedding", "FP32", (384,))])
        assert answer.shape == (1, 384)
        await client.close()

    asyncio.run(use())


def test_models_take_the_rows_that_perf_analyzer_sends(ports: Ports) -> None:
    url = f"127.0.0.1:{ports.grpc}"
    with InferenceServerClient(url) as client:
        for model in client.get_model_repository_index().models:
            config = perf.fetch_config(url, model.name)
            (row, *_) = perf.inputs(config)
            inputs = []
            for each in config.input:
                datatype = model_config_pb2.DataType.Name(each.data_type).removeprefix("TYPE_")
                tensor = np.array(row[each.name]["content"], triton_to_np_dtype(datatype))
                shape = [1, *row[each.name]["shape"]]
                inputs.append(InferInput(each.name, shape, datatype).set_data_from_numpy(tensor.reshape(shape)))
            output = client.infer(model.name, inputs).as_numpy(config.output[0].name)
            assert output.shape == (1, config.output[0].dims[0]), model.name


def test_statistics_are_for_who_has_the_key(ports: Ports) -> None:
    with InferenceServerClient(f"127.0.0.1:{ports.grpc}") as client:
        with pytest.raises(InferenceServerException, match="restricted"):
            client.get_inference_statistics()
        assert client.get_inference_statistics(headers={"triton-grpc-protocol-nobody": KEY}).model_stats


def test_kubelet_may_ask_for_health_and_nothing_else_over_http(ports: Ports) -> None:
    def status(path: str) -> int:
        return httpx2.get(f"http://127.0.0.1:{ports.http}/v2{path}").status_code

    assert status("/health/live") == 200
    for path in ("", "/models/all-minilm-l6-v2/config", "/models/stats", "/systemsharedmemory/status", "/logging"):
        assert status(path) == 403


def test_what_the_gateway_does_not_need_is_refused_over_grpc(ports: Ports) -> None:
    with InferenceServerClient(f"127.0.0.1:{ports.grpc}") as client:
        for ask in (client.get_system_shared_memory_status, client.get_trace_settings, client.get_log_settings):
            with pytest.raises(InferenceServerException, match="restricted"):
                ask()
        with pytest.raises(InferenceServerException, match="not allowed"):
            client.unload_model("all-minilm-l6-v2")

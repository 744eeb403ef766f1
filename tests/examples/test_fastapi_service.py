"""The FastAPI service answers as the client does, from two processes, under load."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "fastapi_service"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn")),
        reason='FastAPI is not installed: pip install -e ".[examples]"',
    ),
]


def get(port: int, path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    address = f"http://127.0.0.1:{port}{path}"
    request = urllib.request.Request(address, data, headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        text = answer.read().decode()
    return text if path == "/metrics" else json.loads(text)


@pytest.fixture(scope="module")
def port(model_dir: Path) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    command = [sys.executable, str(EXAMPLE / "serve.py"), str(number)]
    environment = os.environ | {"MODEL_DIR": str(model_dir), "PYTHONPATH": str(ROOT)}
    service = subprocess.Popen(command, env=environment)
    try:
        for _ in range(600):
            assert service.poll() is None, "uvicorn ended"
            try:
                get(number, "/health")
                break
            except OSError:
                time.sleep(0.1)
        yield number
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(timeout=30)


def test_a_loaded_service_gives_no_wrong_answer(port: int, model_dir: Path) -> None:
    spec = importlib.util.spec_from_file_location("load", EXAMPLE / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    told = module.load(str(model_dir), port, num_clients=4, num_requests=50)
    assert told["requests"] == 200
    assert told["wrong answers"] == 0


def test_it_says_that_it_is_well_and_counts_its_answers(port: int) -> None:
    health = get(port, "/health")
    assert health["status"] == "ok"
    assert health["num_items"] == 30
    get(port, "/recommend", {"history": ["b01"]})
    assert "# TYPE recommend_requests_total counter" in get(port, "/metrics")


@pytest.mark.parametrize("body", [{"history": []}, {"history": ["unknown"]}, {"k": 3}])
def test_a_history_without_items_is_refused(port: int, body: dict[str, Any]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(port, "/recommend", body)
    assert refused.value.code == 422

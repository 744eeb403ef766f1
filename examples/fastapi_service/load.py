"""Load the service and print throughput, p99 and the number of wrong answers.

    MODEL_DIR=runs/ml-100k/export/gru-distilled-int8 python examples/fastapi_service/load.py

The service has to run, by default on 127.0.0.1:8000. Each client is a thread with one connection
that stays open. Every answer is compared with that of `Recommender.recommend` in this process.
"""

import http.client
import json
import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from export.recommender import Recommender

NUM_CLIENTS, NUM_REQUESTS, K = 4, 500, 10  # requests of each client


def ask(
    port: int, histories: list[list[str]], expected: list[list[str]]
) -> tuple[list[float], set[int], int]:
    """Send one request after another; return seconds of each, processes met, wrong answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/health")
    process = json.loads(connection.getresponse().read())["process"]
    seconds, num_wrong = [], 0
    for history, item_ids in zip(histories, expected, strict=True):
        start = perf_counter()
        body = json.dumps({"history": history, "k": K})
        connection.request("POST", "/recommend", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        seconds.append(perf_counter() - start)
        num_wrong += response.status != 200 or [i["item_id"] for i in answer] != item_ids
    connection.close()
    return seconds, {process}, num_wrong


def load(
    model_dir: str, port: int, num_clients: int = NUM_CLIENTS, num_requests: int = NUM_REQUESTS
) -> dict[str, float]:
    """Load the service from several clients at once; return what is to be printed."""
    recommender = Recommender.from_pretrained(model_dir)
    chance = random.Random(0)
    longest = min(20, len(recommender.item_ids))
    histories = [
        [
            chance.sample(recommender.item_ids, chance.randint(1, longest))
            for _ in range(num_requests)
        ]
        for _ in range(num_clients)
    ]
    expected = [
        [[item.item_id for item in recommender.recommend(history, K)] for history in own]
        for own in histories
    ]
    start = perf_counter()
    with ThreadPoolExecutor(num_clients) as pool:
        parts = list(pool.map(ask, [port] * num_clients, histories, expected))
    wall = perf_counter() - start
    seconds = sorted(second for part in parts for second in part[0])
    return {
        "requests": len(seconds),
        "requests per second": round(len(seconds) / wall, 1),
        "p50 ms": round(1000 * seconds[len(seconds) // 2], 2),
        "p99 ms": round(1000 * seconds[int(0.99 * len(seconds))], 2),
        "processes met": len(set().union(*(part[1] for part in parts))),
        "wrong answers": sum(part[2] for part in parts),
    }


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    for name, value in load(os.environ["MODEL_DIR"], port).items():
        print(f"{name}: {value}")

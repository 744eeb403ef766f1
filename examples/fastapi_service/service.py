"""A web service of an exported student: two processes, health, metrics, recommendations.

    MODEL_DIR=runs/ml-100k/export/gru-distilled-int8 python examples/fastapi_service/serve.py

Each process opens the folder itself. A request takes a tenth of a millisecond or two, so it is
answered where it arrives (`async def`), without a pool of threads.
"""

import os
from time import perf_counter
from typing import Annotated

from fastapi import FastAPI, HTTPException
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from export.recommender import Recommender

recommender = Recommender.from_pretrained(os.environ["MODEL_DIR"])
app = FastAPI(title="llm-seqrec")
counts = {"requests": 0, "refused": 0}
seconds = [0.0]  # spent on answers, in this process


class Request(BaseModel):
    """A user's history, oldest first."""

    history: Annotated[list[str], Field(min_length=1, max_length=10_000)]
    k: Annotated[int, Field(ge=1, le=1000)] = 10
    exclude_seen: bool = True


class Item(BaseModel):
    """One recommended item."""

    item_id: str
    title: str
    score: float


@app.post("/recommend")
async def recommend(request: Request) -> list[Item]:
    """Answer one user; 422 where the catalogue has no item of the history."""
    counts["requests"] += 1
    start = perf_counter()
    try:
        answer = recommender.recommend(request.history, request.k, request.exclude_seen)
    except ValueError as error:
        counts["refused"] += 1
        raise HTTPException(422, str(error)) from error
    seconds[0] += perf_counter() - start
    return [Item(item_id=i.item_id, title=i.title, score=i.score) for i in answer]


@app.get("/health")
async def health() -> dict[str, str | int]:
    """Say that this process answers, and for how many items."""
    return {"status": "ok", "num_items": len(recommender.item_ids), "process": os.getpid()}


@app.get("/metrics", response_class=PlainTextResponse)
async def metrics() -> str:
    """Counters of the process that answers, in Prometheus' text format.

    With several processes a scrape sees one of them: the label tells which.
    """
    label = f'{{process="{os.getpid()}"}}'
    return (
        f"# TYPE recommend_requests_total counter\n"
        f"recommend_requests_total{label} {counts['requests']}\n"
        f"# TYPE recommend_refused_total counter\n"
        f"recommend_refused_total{label} {counts['refused']}\n"
        f"# TYPE recommend_seconds_total counter\n"
        f"recommend_seconds_total{label} {seconds[0]:.6f}\n"
    )

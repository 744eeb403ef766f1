r"""Recommendations from a vector database: Qdrant.

    pip install --editable ".[vectors]"
    python -m export.to_index --data-dir data/mine --vectors-to vectors.parquet \
        --model-dir runs/mine/export/transformer-distilled-int8
    python examples/vector_store.py runs/mine/index/transformer-distilled-int8 vectors.parquet 50

The recommender makes the user's state, the database finds the items whose vectors have the largest
inner product with it. Here the database is in this process and looks at all items, as a server does
as long as it has no index; give `QdrantClient(url="http://localhost:6333")` for a server. Another
database with an inner product (Milvus, pgvector, LanceDB) takes the same two files.
"""

import sys
from collections.abc import Iterator
from itertools import islice

import polars as pl
from qdrant_client import QdrantClient, models

from export.recommender import Recommender
from export.user_states import user_states

COLLECTION = "items"
AT_ONCE = 1_000  # points in a request


def fill(client: QdrantClient, vectors: str) -> None:
    """Put the items of a file from `export.to_index --vectors-to` into a new collection."""
    items = pl.read_parquet(vectors)
    shape = models.VectorParams(size=items["vector"].dtype.shape[0], distance=models.Distance.DOT)
    client.create_collection(COLLECTION, vectors_config=shape)
    points = iter_points(items)
    while part := list(islice(points, AT_ONCE)):
        client.upsert(COLLECTION, part)


def iter_points(items: pl.DataFrame) -> Iterator[models.PointStruct]:
    """Yield the items; a point is numbered, since its id may be no free text."""
    for number, (item_id, vector) in enumerate(items.select("item_id", "vector").iter_rows(), 1):
        yield models.PointStruct(id=number, vector=vector, payload={"item_id": item_id})


def recommend(
    client: QdrantClient, recommender: Recommender, history: list[str], k: int = 10
) -> list[tuple[str, float]]:
    """Return the k best items that are not in the history, and their scores."""
    (state,) = user_states(recommender, [history])
    seen = [number for item_id in history if (number := recommender.number(item_id))]
    not_seen = models.Filter(must_not=[models.HasIdCondition(has_id=seen)])
    found = client.query_points(
        COLLECTION, query=state.tolist(), query_filter=not_seen, limit=k, with_payload=True
    )
    return [(point.payload["item_id"], point.score) for point in found.points if point.payload]


def main(model_dir: str, vectors: str, *history: str) -> None:
    """Print recommendations for a history."""
    client, recommender = QdrantClient(":memory:"), Recommender.from_pretrained(model_dir)
    fill(client, vectors)
    for item_id, score in recommend(client, recommender, list(history)):
        print(f"{item_id}\t{score:.3f}\t{recommender.titles[recommender.numbers[item_id] - 1]}")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Bags of words stand in for the language model's reading, and for nothing else."""

from collections.abc import Callable

from seqrec.data import SequenceDataset
from seqrec.knowledge import Knowledge

import numpy as np

from benchmarks.grid.bag_of_words import bag_of_words, with_bag_of_words

TEXTS = ["red pen", "red pen", "blue pen", "red pen blue", "paper clip", "paper box red"]


def test_texts_are_as_alike_as_their_tf_idf_vectors() -> None:
    # By hand: scikit-learn's smoothed idf, log((1 + N) / (1 + df)) + 1; "clip" and "box" stand in
    # one text each. Counts are all 1.
    words = ["red", "pen", "blue", "paper"]
    counts = np.array([[float(word in text.split()) for word in words] for text in TEXTS])
    idf = np.log((1 + len(TEXTS)) / (1 + (counts > 0).sum(axis=0))) + 1
    vectors = counts * idf
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    left, strengths, _ = np.linalg.svd(vectors, full_matrices=False)
    expected = left[:, :3] * strengths[:3]  # one direction fewer than words
    components = bag_of_words(TEXTS)
    np.testing.assert_allclose(components @ components.T, expected @ expected.T, atol=1e-5)


def test_only_the_texts_are_replaced(
    tiny_dataset: SequenceDataset, make_knowledge: Callable[..., Knowledge]
) -> None:
    read = make_knowledge(tiny_dataset)
    words = with_bag_of_words(read, tiny_dataset)
    assert words.text_components.shape[0] == tiny_dataset.num_items + 1
    assert not words.text_components[0].any()
    assert words.text_fingerprint != read.text_fingerprint
    assert words.text_fingerprint == with_bag_of_words(read, tiny_dataset).text_fingerprint
    np.testing.assert_array_equal(words.states, read.states)

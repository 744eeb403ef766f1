"""Item texts without a language model: what the words alone are worth in a fused item table.

A student whose table is made of these components has the same texts as one that a language model
read them for. What the latter has above it is the language model's; the rest is the texts'.
"""

import hashlib
from dataclasses import replace

from seqrec.data import SequenceDataset
from seqrec.item_table import apply_map, fit_whitening, most_components
from seqrec.knowledge import Knowledge
from seqrec.texts import item_texts

import numpy as np
from numpy.typing import NDArray


def bag_of_words(texts: list[str]) -> NDArray[np.float32]:
    """Return the principal directions of texts' TF-IDF vectors, float32 (I, C), C <= 128.

    Latent semantic analysis (Deerwester et al., 1990) with logarithmic counts; words of one text
    alone are left out, since they say nothing of others.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(min_df=2, sublinear_tf=True).fit_transform(texts)
    count = max(min(most_components(*words.shape), words.shape[1] - 1), 1)
    directions: NDArray[np.float32] = (
        TruncatedSVD(count, random_state=0).fit_transform(words).astype(np.float32)
    )
    return directions


def with_bag_of_words(knowledge: Knowledge, dataset: SequenceDataset) -> Knowledge:
    """Return knowledge whose text components are made of words, whitened as the others are.

    It is for comparison: its map makes components of TF-IDF vectors, not of a language model's.
    """
    vectors = bag_of_words(item_texts(dataset.items))
    text_map = fit_whitening(vectors)
    components = np.zeros((dataset.num_items + 1, text_map.shape[1]), np.float16)
    components[1:] = apply_map(vectors, text_map)
    arrays: dict[str, NDArray[np.floating]] = {
        "text_components": components,
        "text_map": text_map,
    }
    sums = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}
    meta = {**knowledge.meta, "sha256": {**knowledge.meta["sha256"], **sums}}
    return replace(knowledge, meta=meta, text_components=components, text_map=text_map)

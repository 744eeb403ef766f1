"""The default language model itself: fetched once, kept in the user's cache."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from teacher.base import load_base, load_tokenizer, num_4bit_parameters, resolve_model
from teacher.text import mean_of_last_states

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("user_cache")]


def test_the_default_language_model_is_a_real_one() -> None:
    folder = resolve_model("smollm2-135m")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = load_tokenizer(folder)
    words = "The capital of France is Paris, and the capital of Italy is Rome".split()

    def perplexity(text: str) -> float:
        tokens = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            return math.exp(model(input_ids=tokens, labels=tokens).loss.item())

    assert perplexity(" ".join(words)) < 20  # a model that knows no English is at 49,152
    assert perplexity(" ".join(sorted(words))) > 10 * perplexity(" ".join(words))


def test_in_4_bit_it_still_knows_which_films_are_alike() -> None:
    folder = resolve_model("smollm2-135m")
    model = load_base(folder, bits=4, num_layers=4, causal=False)
    assert num_4bit_parameters(model) == 4 * 3_538_944  # SmolLM2-135M's linear weights per layer
    titles = ["Star Wars (1977)", "Star Trek: First Contact (1996)", "Sense and Sensibility (1995)"]
    vectors = mean_of_last_states(model, load_tokenizer(folder), titles)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    wars_trek, wars_sense = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert wars_trek > wars_sense

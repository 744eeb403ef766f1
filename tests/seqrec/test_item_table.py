"""The fused item table: text components are white, rows are what the formula says."""

from seqrec.item_table import NUM_COMPONENTS, FusedItemTable, apply_map, fit_whitening

import numpy as np
import pytest
import torch


def mixed_vectors(num_items: int, width: int, rank: int) -> np.ndarray:
    """Return vectors (I, L) of a rank, off centre, one dimension a thousand times the others."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(num_items, rank)) @ rng.normal(size=(rank, width)) + 5
    vectors[:, 0] *= 1000
    return vectors


@pytest.mark.parametrize(("width", "rank", "expected"), [(200, 200, NUM_COMPONENTS), (40, 7, 7)])
def test_components_are_uncorrelated_and_of_variance_one(
    width: int, rank: int, expected: int
) -> None:
    vectors = mixed_vectors(500, width, rank)
    components = apply_map(vectors, fit_whitening(vectors))
    assert components.shape == (500, expected)
    np.testing.assert_allclose(components.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(np.cov(components.T, bias=True), np.eye(expected), atol=1e-2)


def test_components_span_the_directions_in_which_standardised_vectors_differ_most() -> None:
    vectors = mixed_vectors(300, 150, 150)
    standardised = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)
    axes = np.linalg.svd(standardised, full_matrices=False)[2][:NUM_COMPONENTS]
    components = apply_map(vectors, fit_whitening(vectors))
    expected = standardised @ axes.T
    # The same up to scale and sign: each correlates with its own axis alone.
    correlation = np.abs(np.corrcoef(components.T, expected.T)[:NUM_COMPONENTS, NUM_COMPONENTS:])
    np.testing.assert_allclose(correlation, np.eye(NUM_COMPONENTS), atol=2e-2)


@pytest.mark.parametrize("num_items", [1, 2, 3])
def test_catalogues_of_a_few_items_or_of_equal_texts_have_finite_components(num_items: int) -> None:
    for vectors in (mixed_vectors(num_items, 9, 9), np.ones((num_items, 9))):
        components = apply_map(vectors, fit_whitening(vectors))
        assert np.isfinite(components).all()
        assert 1 <= components.shape[1] <= num_items


def test_a_row_is_the_projected_components_and_the_residual() -> None:
    table = FusedItemTable(torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, -1.0]]), 2)
    assert table.weight[0].tolist() == [0.0, 0.0]
    with torch.no_grad():
        table.projection.weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
        assert table.weight.tolist() == [[0, 0], [3, 4], [2, -2]]
        table.residual.weight[2] += torch.tensor([10.0, 20.0])
    rows = table(torch.tensor([[2, 0], [1, 2]]))
    assert rows.tolist() == [[[12, 18], [0, 0]], [[3, 4], [12, 18]]]


@pytest.mark.parametrize("dim", [2, 3, 5])
def test_rows_start_as_the_first_components(dim: int) -> None:
    table = FusedItemTable(torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]), dim)
    first = min(dim, 3)
    torch.testing.assert_close(table.weight[1, :first], 0.05 * torch.arange(1.0, first + 1))
    assert (table.weight[1] != 0).all()  # a column beyond the components could never leave zero


def test_an_item_without_a_gradient_of_its_own_moves_with_its_text() -> None:
    torch.manual_seed(0)
    table = FusedItemTable(torch.tensor([[0.0], [1.0], [2.0]]), 3)
    table(torch.tensor([1])).sum().backward()
    assert table.residual.weight.grad is not None
    assert (table.residual.weight.grad[2] == 0).all()
    assert table.projection.weight.grad is not None
    assert table.projection.weight.grad.tolist() == [[1.0]] * 3

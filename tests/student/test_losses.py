"""The loss of a student: by hand, against torch's own, and as properties of the estimate."""

import math

from seqrec.histories import PAD

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from student import losses
from student.losses import mixed_answer, soft_cross_entropy

NUM_ITEMS, DIM = 12, 5


def draw(num_positions: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw states (P, H) and an item table (I + 1, H) whose scores differ by several units."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(NUM_ITEMS + 1, DIM, generator=generator)
    table[0] = 0
    return torch.randn(num_positions, DIM, generator=generator), table


def draw_answers(num_positions: int, num_named: int) -> tuple[Tensor, Tensor]:
    """Draw different items for each position, (P, K), and weights that add up to 1."""
    generator = torch.Generator().manual_seed(1)
    orders = torch.rand(num_positions, NUM_ITEMS, generator=generator).argsort(dim=1)
    weights = torch.rand(num_positions, num_named, generator=generator)
    return orders[:, :num_named] + 1, weights / weights.sum(dim=1, keepdim=True)


def with_padding(items: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Add a column of PAD on the left and two on the right."""
    return F.pad(items, (1, 2)), F.pad(weights, (1, 2))


# The exact form.


def test_for_one_item_of_weight_1_it_is_the_usual_cross_entropy() -> None:
    states, table = draw(7)
    targets = torch.tensor([1, 2, 3, 12, 12, 5, 8])
    loss = soft_cross_entropy(states, table, targets[:, None], torch.ones(7, 1))
    torch.testing.assert_close(loss, F.cross_entropy(states @ table[1:].T, targets - 1))


def test_by_hand_it_is_minus_the_log_of_the_targets_share_of_the_odds() -> None:
    table = torch.tensor([[0.0], [math.log(1.0)], [math.log(2.0)], [math.log(5.0)]])
    loss = soft_cross_entropy(torch.ones(1, 1), table, torch.tensor([[3]]), torch.ones(1, 1))
    assert loss.exp().item() == pytest.approx(8 / 5)


def test_for_a_soft_answer_it_is_the_divergence_from_it_and_its_entropy() -> None:
    states, table = draw(6)
    items, weights = draw_answers(6, NUM_ITEMS)
    log_student = (states @ table[1:].T).log_softmax(dim=1).gather(1, items - 1)
    divergence = F.kl_div(log_student, weights, reduction="batchmean")
    entropy = torch.distributions.Categorical(probs=weights).entropy().mean()
    loss = soft_cross_entropy(states, table, items, weights)
    torch.testing.assert_close(loss, divergence + entropy)


def test_no_student_has_less_of_it_than_one_who_agrees() -> None:
    weights = torch.tensor([[0.5, 0.3, 0.2]])
    items, table = torch.tensor([[2, 1, 3]]), F.pad(torch.eye(3), (0, 0, 1, 0))
    agreeing = torch.tensor([[0.3, 0.5, 0.2]]).log() + 7  # a constant changes no probability
    entropy = -(weights * weights.log()).sum().item()
    loss = soft_cross_entropy(agreeing, table, items, weights).item()
    assert loss == pytest.approx(entropy, abs=1e-6)
    for other in torch.eye(3):
        assert soft_cross_entropy(agreeing + other[None], table, items, weights) > entropy + 1e-3


def test_a_position_counts_by_the_weight_of_its_answer() -> None:
    states, table = draw(2)
    items = torch.tensor([[4, 9], [1, 2]])
    weights = torch.tensor([[0.3, 0.1], [0.0, 0.0]])  # to the second nobody has an answer
    whole = soft_cross_entropy(states[:1], table, items[:1], weights[:1] / 0.4)
    loss = soft_cross_entropy(states, table, items, weights)
    torch.testing.assert_close(loss, whole * 0.4 / 2)  # divided by both positions


def test_the_rest_is_one_answer_whose_share_is_all_that_is_not_named() -> None:
    states, table = draw(6)
    items, weights = draw_answers(6, 3)
    student = (states @ table[1:].T).softmax(dim=1)
    named = student.gather(1, items - 1)
    expected = -(0.6 * weights * named.log()).sum(dim=1) - 0.4 * (1 - named.sum(dim=1)).log()
    with_rest = F.pad(items, (0, 1)), F.pad(0.6 * weights, (0, 1), value=0.4)
    loss = soft_cross_entropy(states, table, *with_rest)
    torch.testing.assert_close(loss, expected.mean())


@pytest.mark.parametrize("is_sampled", [False, True])
def test_a_student_who_agrees_on_the_named_is_not_told_how_to_divide_the_rest(
    is_sampled: bool,
) -> None:
    table = torch.cat([torch.zeros(1, 5), torch.eye(5)])
    states = torch.tensor([[0.4, 0.1, 0.1, 0.15, 0.25]]).log().requires_grad_()
    items, weights = torch.tensor([[1, 5, 0]]), torch.tensor([[0.4, 0.25, 0.35]])
    negatives = torch.tensor([2, 3, 4]) if is_sampled else None  # all others: no estimate
    soft_cross_entropy(states, table, items, weights, negatives).backward()
    assert states.grad is not None
    torch.testing.assert_close(states.grad, torch.zeros(1, 5), atol=1e-6, rtol=0)


@pytest.mark.parametrize("is_sampled", [False, True])
def test_padding_is_no_item_and_learns_nothing(is_sampled: bool) -> None:
    states, table = draw(6)
    table.requires_grad_()
    items, weights = draw_answers(6, 3)
    with_rest = F.pad(items, (0, 1)), F.pad(0.6 * weights, (0, 1), value=0.4)
    negatives = torch.tensor([2, 3, 4]) if is_sampled else None
    soft_cross_entropy(states, table, *with_rest, negatives).backward()
    assert table.grad is not None
    assert (table.grad[PAD] == 0).all()


def test_where_all_items_are_named_the_rest_is_nothing_to_be_lost() -> None:
    states, table = draw(6)
    states.requires_grad_()
    items, weights = draw_answers(6, NUM_ITEMS)
    loss = soft_cross_entropy(states, table, *with_padding(items, weights))
    loss.backward()
    torch.testing.assert_close(loss, soft_cross_entropy(states, table, items, weights))
    assert states.grad is not None
    assert states.grad.isfinite().all()


@pytest.mark.parametrize("sampled", [None, [3, 7, 1, 11]])
def test_slices_change_neither_the_loss_nor_its_gradients(
    sampled: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "SLICE", 3)  # 7 positions: two whole slices and one of 1
    states, table = draw(7)
    items, weights = draw_answers(7, 4)
    for leaf in (states, table):
        leaf.requires_grad_()
    loss = soft_cross_entropy(
        states, table, items, weights, None if sampled is None else torch.tensor(sampled)
    )
    logits = states @ table[1:].T
    if sampled is None:
        log_sum = logits.logsumexp(dim=1)
    else:  # each sampled item that is not in the answer stands for 8 / (how many those are)
        odds = logits.exp()
        sums = []
        for row, own in enumerate((items - 1).tolist()):
            others = [item - 1 for item in sampled if item - 1 not in own]
            sums.append(odds[row, own].sum() + odds[row, others].sum() * 8 / len(others))
        log_sum = torch.stack(sums).log()
    chosen = logits.gather(1, items - 1)
    expected = (log_sum * weights.sum(dim=1) - (weights * chosen).sum(dim=1)).mean()
    torch.testing.assert_close(loss, expected)
    for found, wanted in zip(
        torch.autograd.grad(loss, (states, table)),
        torch.autograd.grad(expected, (states, table)),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)


# The estimated form.


@pytest.mark.parametrize("num_named", [1, 3, NUM_ITEMS - 1])
@pytest.mark.parametrize("padded", [False, True])
def test_with_all_other_items_sampled_the_estimate_is_exact(num_named: int, padded: bool) -> None:
    for seed in range(5):
        states, table = draw(1, seed)
        items, weights = draw_answers(1, num_named)
        others = torch.tensor(sorted(set(range(1, NUM_ITEMS + 1)) - set(items[0].tolist())))
        exact = soft_cross_entropy(states, table, items, weights)
        given = with_padding(items, weights) if padded else (items, weights)
        torch.testing.assert_close(soft_cross_entropy(states, table, *given, others), exact)


@pytest.mark.parametrize("padded", [False, True])
def test_with_every_item_sampled_the_answers_own_are_not_counted_twice(padded: bool) -> None:
    states, table = draw(6)
    items, weights = draw_answers(6, 3)
    every = torch.randperm(NUM_ITEMS, generator=torch.Generator().manual_seed(2)) + 1
    exact = soft_cross_entropy(states, table, items, weights)
    given = with_padding(items, weights) if padded else (items, weights)
    torch.testing.assert_close(soft_cross_entropy(states, table, *given, every), exact)


@pytest.mark.parametrize("sampled", [None, [3, 7, 1, 11]])
def test_columns_of_padding_add_nothing(sampled: list[int] | None) -> None:
    states, table = draw(6)
    items, weights = draw_answers(6, 4)
    negatives = None if sampled is None else torch.tensor(sampled)
    torch.testing.assert_close(
        soft_cross_entropy(states, table, *with_padding(items, weights), negatives),
        soft_cross_entropy(states, table, items, weights, negatives),
    )


@pytest.mark.parametrize("num_sampled", [4, 8])
def test_the_estimated_sum_over_the_catalogue_is_right_on_average(num_sampled: int) -> None:
    states, table = draw(1)
    items, weights = draw_answers(1, 3)
    logits = states @ table[1:].T
    named = (weights * logits.gather(1, items - 1)).sum()
    generator = torch.Generator().manual_seed(3)
    sums = torch.stack(
        [
            (soft_cross_entropy(states, table, items, weights, sampled + 1) + named).exp()
            for sampled in (
                torch.randperm(NUM_ITEMS, generator=generator)[:num_sampled] for _ in range(4000)
            )
        ]
    )
    standard_error = (sums.std() / 4000**0.5).item()
    expected = logits.logsumexp(dim=1).exp().item()
    assert standard_error < 0.02 * expected  # else the next line would pass whatever came out
    assert sums.mean().item() == pytest.approx(expected, abs=4 * standard_error)


@pytest.mark.parametrize("sampled", [None, [6, 7, 8]])
def test_the_gradient_raises_the_answer_and_lowers_what_it_is_compared_with(
    sampled: list[int] | None,
) -> None:
    states, table = draw(1)
    states.requires_grad_()
    table.requires_grad_()
    items, weights = torch.tensor([[2, 5, 0]]), torch.tensor([[0.9, 0.1, 0.0]])
    negatives = None if sampled is None else torch.tensor(sampled)
    soft_cross_entropy(states, table, items, weights, negatives).backward()
    assert states.grad is not None
    assert table.grad is not None
    # The row of item i moves along the state by (its probability - its weight in the answer).
    along = (table.grad @ states[0] / (states[0] @ states[0])).detach()
    compared = list(range(1, NUM_ITEMS + 1)) if sampled is None else [2, 5, *sampled]
    assert along[compared].sum().item() == pytest.approx(0, abs=1e-6)
    for item in compared:
        if item not in (2, 5):
            assert along[item] > 0
    untouched = sorted(set(range(NUM_ITEMS + 1)) - set(compared))
    assert (along[untouched] == 0).all()  # PAD is among them
    if sampled is None:
        expected = (states @ table[1:].T).softmax(dim=1)[0].detach()
        expected[1] -= 0.9
        expected[4] -= 0.1
        torch.testing.assert_close(along[1:], expected)
        torch.testing.assert_close(states.grad[0], expected @ table[1:].detach())


# The answer to learn.

QUARTERS = torch.tensor([[0.75, 0.25]]).log()


def answer(target: int, named: list[int], share: float) -> dict[int, float]:
    """Return a mixed answer to one position as {item: weight}, without padding."""
    items, weights = mixed_answer(
        torch.tensor([target]),
        torch.tensor([named]),
        QUARTERS[:, : len(named)],
        torch.tensor([share]),
    )
    assert items.shape == weights.shape == (1, len(named) + 2)
    real = [item for item in items[0].tolist() if item]
    assert len(set(real)) == len(real)  # none stands twice
    assert weights[items == 0].sum().item() == pytest.approx(0)  # nothing is left for the rest
    return dict(zip(items[0].tolist(), weights[0].tolist(), strict=True) if real else {})


@pytest.mark.parametrize(
    ("target", "named", "share", "expected"),
    [
        (9, [4, 2], 0.4, {9: 0.6, 4: 0.3, 2: 0.1}),  # the teachers do not name it
        (2, [4, 2], 0.4, {2: 0.6 + 0.1, 4: 0.3}),  # they do
        (4, [4, 2], 1.0, {4: 0.75, 2: 0.25}),  # theirs alone
        (9, [4, 2], 0.0, {9: 1.0}),  # the target alone
        (0, [4, 2], 0.4, {4: 0.3, 2: 0.1}),  # nothing came next
        (9, [0, 0], 0.4, {9: 1.0}),  # the teachers are silent
        (9, [0, 0], 1.0, {9: 1.0}),  # silent, though all was to be theirs
        (0, [0, 0], 0.4, {}),  # nobody knows
    ],
)
def test_an_answer_is_the_target_and_the_teachers_opinion_by_their_shares(
    target: int, named: list[int], share: float, expected: dict[int, float]
) -> None:
    found = {item: weight for item, weight in answer(target, named, share).items() if weight}
    assert found == pytest.approx(expected)


def test_what_the_teachers_give_is_divided_among_the_items_they_name() -> None:
    # 0.3 and 0.1 of the whole catalogue are three quarters and one quarter of the two.
    items, weights = mixed_answer(
        torch.tensor([7]), torch.tensor([[4, 2]]), torch.tensor([[0.3, 0.1]]).log(), torch.ones(1)
    )
    assert weights[items == 4].item() == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (7, {7: 0.5, 4: 0.15, 2: 0.05, 0: 0.3}),
        (2, {4: 0.15, 2: 0.55, 0: 0.3}),
        (0, {4: 0.15, 2: 0.05, 0: 0.3}),
    ],
)
def test_the_rest_is_kept_if_asked_for(target: int, expected: dict[int, float]) -> None:
    log_probs = torch.tensor([[0.3, 0.1]]).log()  # 0.6 of the whole catalogue are the others'
    items, weights = mixed_answer(
        torch.tensor([target]),
        torch.tensor([[4, 2]]),
        log_probs,
        torch.tensor([0.5]),
        keep_rest=True,
    )
    found = {item: w for item, w in zip(items[0].tolist(), weights[0].tolist(), strict=True) if w}
    assert found == pytest.approx(expected)


def test_a_temperature_leaves_the_rest_as_it_is() -> None:
    log_probs = torch.tensor([[0.36, 0.04]]).log()
    items, weights = mixed_answer(
        torch.tensor([7]),
        torch.tensor([[4, 2]]),
        log_probs,
        torch.ones(1),
        temperature=2.0,
        keep_rest=True,
    )
    # At temperature 2 odds of 9 to 1 are odds of 3 to 1.
    assert weights[items == 4].item() == pytest.approx(0.3)
    assert weights[items == 2].item() == pytest.approx(0.1)
    assert weights[0, -1].item() == pytest.approx(0.6)


@pytest.mark.parametrize("keep_rest", [False, True])
def test_weights_add_up_to_1_or_to_the_kd_weight_where_nothing_came_next(keep_rest: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    named = torch.rand(400, NUM_ITEMS, generator=generator).argsort(dim=1)[:, :4] + 1
    named[::5] = 0
    targets = torch.randint(0, NUM_ITEMS + 1, (400,), generator=generator)
    log_probs = torch.randn(400, 6, generator=generator).log_softmax(dim=1)[:, :4]
    kd_weights = torch.rand(400, generator=generator)
    items, weights = mixed_answer(targets, named, log_probs, kd_weights, keep_rest=keep_rest)
    expected = torch.where(targets > 0, 1.0, torch.where(named[:, 0] > 0, kd_weights, 0.0))
    torch.testing.assert_close(weights.sum(dim=1), expected)
    assert (weights >= 0).all()
    for row in items.tolist():
        real = [item for item in row if item]
        assert len(set(real)) == len(real)


def test_negatives_stand_for_the_items_that_they_were_drawn_from() -> None:
    # Of seven items with equal scores the answer names one; three negatives stand for the others.
    states, table = torch.zeros(1, 2), torch.ones(20, 2)
    loss = soft_cross_entropy(
        states,
        table,
        torch.tensor([[4]]),
        torch.ones(1, 1),
        torch.tensor([1, 2, 3]),
        num_candidates=7,
    )
    assert loss.item() == pytest.approx(math.log(7))

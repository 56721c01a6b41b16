"""The rules of budgets, held against a plain simulation of each budget's own run."""

from __future__ import annotations

import random

import pytest
from pydantic import ValidationError

from models.budgets import Extension, LadderPlan, Prefix, Stop, Thought, answer_seed, extension_seed, prefix


def made(length: int, *stops: int) -> Thought:
    """A thought of so many tokens that tried to end at ``stops``; it was cut unless the last is its end."""
    ended = "marker" if stops and stops[-1] == length else "length"
    return Thought((7,) * length, "", ended, 3, stops=tuple(Stop(at, "marker") for at in stops))


class TestPlan:
    @pytest.mark.parametrize(
        ("budgets", "named"), [((0, 4), "0"), ((-3,), "-3"), ((8, 8), "8 after 8"), ((None, 4), "last"), ((99,), "99")]
    )
    def test_a_wrong_budget_is_named(self, budgets: tuple[int | None, ...], named: str) -> None:
        with pytest.raises(ValidationError, match=named):
            LadderPlan(budgets=budgets, max_thinking_tokens=64)

    def test_an_extension_needs_a_budget_to_extend_to(self) -> None:
        with pytest.raises(ValidationError, match="nothing to extend to"):
            LadderPlan(budgets=(None,), extension=Extension())

    def test_limits(self) -> None:
        plan = LadderPlan(budgets=(8, 32, None), max_thinking_tokens=64, extension=Extension())
        assert (plan.extended_to, plan.first_limit) == (32, 64)
        assert LadderPlan(budgets=(8, 32), max_thinking_tokens=64).first_limit == 32
        assert LadderPlan(budgets=(8, 32)).extended_to == 0


class TestPrefix:
    def test_the_token_that_ends_a_thought_is_within_its_budget(self) -> None:
        plan = LadderPlan(budgets=(9, 10, 11, None), max_thinking_tokens=64)
        found = [prefix(made(10, 10), budget, plan) for budget in plan.budgets]
        assert found == [
            Prefix(9, "length", 0),
            Prefix(10, "length", 0),
            Prefix(10, "marker", 0),
            Prefix(10, "marker", 0),
        ]

    def test_within_the_margin_an_end_stands(self) -> None:
        plan = LadderPlan(budgets=(42, 43, 90), max_thinking_tokens=90, extension=Extension(margin=32))
        found = [prefix(made(90, 10), budget, plan) for budget in plan.budgets]
        assert found == [Prefix(10, "marker", 0), Prefix(43, "length", 1), Prefix(90, "length", 1)]

    def test_without_a_budget_nothing_is_put_off(self) -> None:
        plan = LadderPlan(budgets=(60, None), max_thinking_tokens=64, extension=Extension(margin=2))
        assert prefix(made(60, 10, 30), None, plan) == Prefix(10, "marker", 0)

    @pytest.mark.parametrize("seed", range(40))
    def test_it_is_what_the_budget_alone_would_have_thought(self, seed: int) -> None:
        """A model that is told how long each of its stretches is, run for one budget and for all of them."""
        dice = random.Random(seed)
        words = dice.randint(1, 4)
        stretches = [dice.randint(0, 30) for _ in range(60)]
        budgets = tuple(sorted(dice.sample(range(1, 120), 5)))
        extension = Extension(margin=dice.randint(0, 20), most=dice.choice([None, 1, 3]))
        unlimited = dice.random() < 0.5
        plan = LadderPlan(
            budgets=(*budgets, None) if unlimited else budgets, max_thinking_tokens=200, extension=extension
        )

        def run(budgets: tuple[int | None, ...]) -> Thought:
            own = plan.model_copy(update={"budgets": budgets})
            position, stops, limit = 0, [], own.first_limit
            for stretch in stretches:
                if position + stretch >= limit:
                    return made(max(limit, position), *stops)
                position += stretch
                stops.append(position)
                if not own.puts_off(own.extended_to, len(stops) - 1, position):
                    return made(position, *stops)
                position, limit = min(position + words, own.extended_to), own.extended_to
            raise AssertionError("the model stopped too often")

        nested = run(plan.budgets)
        for budget in plan.budgets:
            alone = run((budget,)) if budget is not None else run((None,))
            used = prefix(nested, budget, plan)
            own = prefix(alone, budget, plan.model_copy(update={"budgets": (budget,)}))
            assert (used.length, used.ended) == (own.length, own.ended) == (alone.length, alone.ended)
            assert used.extensions == own.extensions


def test_seeds_differ_by_what_they_are_for() -> None:
    seeds = {make(seed, at) for make in (answer_seed, extension_seed) for seed in range(4) for at in range(50)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)

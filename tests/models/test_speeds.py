"""The rules of thumb of a plan, against figures that were measured or published."""

from __future__ import annotations

import pytest

from models.speeds import GPU_FLOPS, asking_speed, training_speed


def test_a_7b_model_generates_some_thousand_tokens_a_second_on_a_gpu() -> None:
    speed = asking_speed(7_615_616_512, 1, "cuda")
    assert speed.generated == pytest.approx(0.15 * GPU_FLOPS / (2 * 7_615_616_512))
    assert 2000 < speed.generated < 5000
    assert speed.read > speed.generated
    assert asking_speed(7_615_616_512, 2, "cuda") == (2 * speed.generated, 2 * speed.read)
    assert asking_speed(7_615_616_512, 0.5, "cuda").generated == speed.generated / 2


def test_small_models_are_not_as_fast_as_their_size_says() -> None:
    assert asking_speed(134_515_008, 1, "cuda").generated == asking_speed(400_000_000, 1, "cuda").generated == 20_000


def test_on_two_cores_it_is_what_the_decisions_page_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    speed = asking_speed(134_515_008, 0, "cpu")
    assert speed.generated == pytest.approx(110, rel=0.05)
    assert speed.read == pytest.approx(370, rel=0.05)


def test_training_costs_six_flops_a_parameter_and_token_or_less_for_adapters() -> None:
    full = training_speed(10**9, 8, "cuda", adapters=False, checkpointing=False)
    assert full == pytest.approx(8 * 0.4 * 312e12 / 6e9)
    assert training_speed(10**9, 8, "cuda", adapters=True, checkpointing=False) == pytest.approx(full * 6 / 4)
    assert training_speed(10**9, 8, "cuda", adapters=False, checkpointing=True) == pytest.approx(full * 6 / 8)

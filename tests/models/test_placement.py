"""GPUs a model takes, by its size."""

from __future__ import annotations

import pytest

from models.placement import GIB, USABLE, fits, gpus_for, memory_gib

SIZES = {"0.5b": 494_032_768, "7b": 7_615_616_512, "14b": 14_770_033_664, "32b": 32_763_876_352, "72b": 72_706_203_648}


@pytest.mark.parametrize(
    ("size", "gib", "gpus"),
    [("0.5b", 80, 1), ("14b", 80, 1), ("32b", 80, 2), ("32b", 141, 1), ("72b", 80, 4), ("72b", 141, 2), ("14b", 24, 2)],
)
def test_the_least_power_of_two_that_holds_weights_and_cache(size: str, gib: float, gpus: int) -> None:
    found = gpus_for(SIZES[size], gib)
    assert found == gpus
    assert memory_gib(SIZES[size]) <= USABLE * gib * found
    assert found == 1 or memory_gib(SIZES[size]) > USABLE * gib * found / 2


@pytest.mark.parametrize(("size", "part"), [("0.5b", 0.125), ("7b", 0.5), ("14b", 0.5), ("32b", 2.0)])
def test_small_models_share_a_gpu_where_that_is_allowed(size: str, part: float) -> None:
    assert gpus_for(SIZES[size], 80, share=True) == part
    assert gpus_for(SIZES[size], 80) >= 1


def test_whether_so_many_gpus_hold_it() -> None:
    assert [fits(SIZES["32b"], 80, count) for count in (1, 2)] == [False, True]
    assert fits(None, 1, 1)


def test_what_a_person_chose_is_taken() -> None:
    assert gpus_for(SIZES["0.5b"], 80, 4, share=True) == 4.0
    assert gpus_for(None, 80) == 1.0
    assert gpus_for(None, 80, 8) == 8.0


def test_the_edge_is_the_memory_itself() -> None:
    whole = (USABLE * 80 - 2.0) * GIB / 2.4
    assert gpus_for(int(whole), 80) == 1.0
    assert gpus_for(int(whole) + GIB, 80) == 2.0


@pytest.mark.parametrize(("parameters", "gib", "parallel"), [(0, 80, 1), (1, 0, 1), (1, 80, 0), (10**18, 80, 1)])
def test_what_cannot_be_is_refused(parameters: int, gib: float, parallel: int) -> None:
    with pytest.raises(ValueError, match="GPUs"):
        gpus_for(parameters, gib, parallel)

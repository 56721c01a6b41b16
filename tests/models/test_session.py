"""A model in its own process: streams, fails clearly, and never outlives its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.budgets import LadderJob, LadderPlan
from models.engines.base import load_engine
from models.session import ModelRef, ModelSession
from store.types import InputError, Message, RunError, Sampling

ROOT = Path(__file__).resolve().parents[2]
HELLO = (Message(role="user", content="What is the capital of Italy?"),)


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def ends_within(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def session(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelSession]:
    log = tmp_path_factory.mktemp("session") / "generation.jsonl"
    with ModelSession(
        ModelRef("smollm2-135m", embedded), "transformers", "float32", chunk=2, generation_log=log, unit="u1"
    ) as opened:
        opened.generation_log = log  # type: ignore[attr-defined]
        yield opened


def test_importing_the_session_loads_no_torch() -> None:
    modules = "models.session, models.registry, models.prompts"
    code = f"import sys, {modules}; assert not {{'torch', 'transformers'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.real
class TestSession:
    def test_it_says_what_runs(self, session: ModelSession) -> None:
        assert (session.info.engine, session.info.dtype) == ("transformers", "float32")
        assert session.info.pid != os.getpid()
        assert session.info.context_length == 8192

    def test_text_and_counts(self, session: ModelSession) -> None:
        texts = session.generate_text([HELLO, HELLO], Sampling(), 12, [1, 2])
        assert texts[0] == texts[1] == "Il Coriobella, Italy."
        assert session.count_tokens(["", "in 1984"]) == [0, 6]

    def test_ladders_stream_and_are_logged(self, session: ModelSession) -> None:
        plan = LadderPlan(budgets=(4, None), max_thinking_tokens=16, max_answer_tokens=3)
        jobs = [LadderJob(f"j{i}", HELLO, i, None, (4, None)) for i in range(3)]
        outcomes = list(session.run_ladder(jobs, plan))
        assert [o.thought_id for o in outcomes] == ["j0", "j1", "j2"]
        log: Path = session.generation_log  # type: ignore[attr-defined]
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        thinking = [line for line in lines if line.get("phase") == "think"]
        assert [line["ids"] for line in thinking] == [["j0", "j1"], ["j2"]]
        assert {line["unit"] for line in lines} == {"u1"}

    def test_an_error_in_the_child_is_raised_here_and_the_session_lives_on(self, session: ModelSession) -> None:
        plan = LadderPlan(budgets=(4,), max_thinking_tokens=4)
        with pytest.raises(InputError, match="budget 8"):
            list(session.run_ladder([LadderJob("j", HELLO, 1, None, (8,))], plan))
        assert session.count_tokens(["x"]) == [1]


@pytest.mark.real
class TestEnds:
    def test_a_killed_child_is_named_and_leaving_early_ends_it(self, embedded: Path) -> None:
        plan = LadderPlan(budgets=(None,), max_thinking_tokens=4, max_answer_tokens=2)
        session = ModelSession(ModelRef("m", embedded), "transformers", chunk=1)
        with session:
            pid = session.info.pid
            stream = session.run_ladder([LadderJob(f"j{i}", HELLO, i, None, (None,)) for i in range(50)], plan)
            next(stream)
            stream.close()  # type: ignore[attr-defined]
            assert ends_within(pid, 5)
        with session:
            os.kill(session.info.pid, signal.SIGKILL)
            with pytest.raises(RunError, match="SIGKILL"):
                session.count_tokens(["x"])

    def test_the_child_dies_with_a_killed_parent(self, embedded: Path, tmp_path: Path) -> None:
        code = (
            "import sys, time; from pathlib import Path; from models.session import ModelRef, ModelSession\n"
            "with ModelSession(ModelRef('m', Path(sys.argv[1])), 'transformers') as s:\n"
            "    print(s.info.pid, flush=True); time.sleep(600)\n"
        )
        parent = subprocess.Popen(
            [sys.executable, "-c", code, str(embedded)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert parent.stdout is not None
        with parent.stdout:
            pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
        parent.wait()
        assert ends_within(pid, 5)


class TestBadModels:
    def test_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"'ghost'.*no folder"), ModelSession(ModelRef("ghost", tmp_path / "no")):
            pass

    def test_pickled_weights_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "pytorch_model.bin").write_bytes(b"x")
        with pytest.raises(InputError, match=r"pytorch_model\.bin"), ModelSession(ModelRef("old", tmp_path)):
            pass

    def test_broken_weights_give_one_clear_error(self, tmp_path: Path, embedded: Path) -> None:
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            (tmp_path / name).symlink_to(embedded / name)
        (tmp_path / "model.safetensors").write_bytes(b"not weights")
        with pytest.raises(RunError, match=r"'broken'.*cannot be loaded"):
            load_engine(ModelRef("broken", tmp_path), "transformers", "auto", None, None)

"""A model in its own process: streams, fails clearly, and never outlives its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, chdir
from multiprocessing import Pipe
from pathlib import Path

import pytest

from models.asking import Ask
from models.budgets import LadderJob, LadderPlan
from models.engines.base import EngineOptions, OutOfMemory, load_engine
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


QUICK = EngineOptions(engine="transformers", dtype="float32", batch_size=2)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generation log of the session that the tests share."""
    return tmp_path_factory.mktemp("session") / "generation.jsonl"


@pytest.fixture(scope="module")
def session(embedded: Path, log: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelSession]:
    # Opened where the user has a package that is called as ours.
    place = tmp_path_factory.mktemp("place")
    (place / "models").mkdir()
    (place / "models" / "__init__.py").write_text("raise SystemExit('the wrong models')")
    with ExitStack() as ends:
        with chdir(place):
            opened = ModelSession(ModelRef("smollm2-135m", embedded), QUICK, generation_log=log, unit="u1")
            ends.enter_context(opened)
        yield opened


def ladder_jobs(count: int, budgets: tuple[int | None, ...] = (None,)) -> list[LadderJob]:
    return [LadderJob(f"j{i}", HELLO, i, None, budgets) for i in range(count)]


def test_importing_the_session_loads_no_torch() -> None:
    modules = "models.session, models.registry, models.prompts"
    code = f"import sys, {modules}; assert not {{'torch', 'transformers'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.real
class TestSession:
    def test_it_says_what_runs(self, session: ModelSession) -> None:
        assert (session.info.engine, session.info.dtype, session.info.rows) == ("transformers", "float32", 2)
        assert session.info.pid != os.getpid()
        assert session.info.context_length == 8192

    def test_short_replies_come_once_each(self, session: ModelSession) -> None:
        asks = [Ask(f"a{i}", HELLO, i) for i in range(5)]
        replies = [reply for group in session.ask(asks, Sampling(), 12, window=3) for reply in group]
        assert sorted(reply.id for reply in replies) == [ask.id for ask in asks]
        assert {reply.text for reply in replies} == {"Il Coriobella, Italy."}
        assert {(reply.finish, reply.generated) for reply in replies} == {("stop", 9)}

    def test_ladders_stream_within_their_window(self, session: ModelSession, log: Path) -> None:
        before = len(log.read_text().splitlines()) if log.exists() else 0
        plan = LadderPlan(budgets=(4, None), max_thinking_tokens=16, max_answer_tokens=3)
        taken: list[str] = []

        def jobs() -> Iterator[LadderJob]:
            for job in ladder_jobs(9, (4, None)):
                taken.append(job.thought_id)
                yield job

        kept = 0
        for group in session.run_ladder(jobs(), plan, window=4):
            assert len(taken) - kept <= 4
            kept += len(group)
        assert kept == len(taken) == 9
        lines = [json.loads(line) for line in log.read_text().splitlines()[before:]]
        thought = [identity for line in lines if line.get("phase") == "think" for identity in line["ids"]]
        assert sorted(thought) == [f"j{i}" for i in range(9)]
        assert {line["unit"] for line in lines} == {"u1"}

    def test_nothing_to_do(self, session: ModelSession) -> None:
        assert list(session.run_ladder([], LadderPlan())) == []

    def test_how_a_model_is_asked(self, session: ModelSession) -> None:
        inspection = session.inspect(HELLO)
        assert inspection.prompt.endswith("What is the capital of Italy?<|im_end|>\n<|im_start|>assistant\n")
        assert inspection.prompt_tokens > 8
        assert (inspection.stops, inspection.marker) == ({"<|im_end|>": 2}, None)

    def test_an_error_in_the_child_is_raised_here_and_the_session_lives_on(self, session: ModelSession) -> None:
        plan = LadderPlan(budgets=(4,), max_thinking_tokens=4, max_answer_tokens=2)
        jobs = [*ladder_jobs(3, (4,)), LadderJob("bad", HELLO, 1, None, (8,)), *ladder_jobs(3, (4,))]
        with pytest.raises(InputError, match="bad: budget 8"):
            list(session.run_ladder(jobs, plan, window=2))
        (group,) = session.run_ladder(ladder_jobs(1, (4,)), plan)
        assert [outcome.thought_id for outcome in group] == ["j0"]


class TestGroups:
    """What the parent makes of a child's messages, set one by one."""

    def test_what_had_ended_is_given_out_before_the_error(self, tmp_path: Path) -> None:
        session = ModelSession(ModelRef("m", tmp_path))
        mine, theirs = Pipe()
        with mine, theirs:
            session._connection = mine
            for message in (("value", []), ("value", ["a", "b"]), ("value", ["c"]), ("error", RunError("gone"))):
                session._messages.put(message)
            assert session._group(working=9, size=8) == ["a", "b", "c"]
            with pytest.raises(RunError, match="gone"):
                session._group(working=6, size=8)

    def test_a_child_that_is_dead_is_noticed_though_another_holds_its_end(self, tmp_path: Path) -> None:
        session = ModelSession(ModelRef("m", tmp_path))
        mine, theirs = Pipe()
        with mine, theirs:
            session._connection = mine
            session._process = subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 15)"])
            with pytest.raises(RunError, match="SIGTERM"):
                session._group(working=1, size=1)


@pytest.mark.real
class TestEnds:
    def test_a_killed_child_is_named_and_leaving_early_ends_it(self, embedded: Path) -> None:
        plan = LadderPlan(budgets=(None,), max_thinking_tokens=4, max_answer_tokens=2)
        session = ModelSession(ModelRef("m", embedded), QUICK)
        with session:
            pid = session.info.pid
            stream = session.run_ladder(ladder_jobs(50), plan, window=2)
            next(stream)
            stream.close()  # type: ignore[attr-defined]
            assert ends_within(pid, 5)
        with session:
            os.kill(session.info.pid, signal.SIGKILL)
            # Mostly it is the system that kills so, for want of memory: fewer rows may do.
            with pytest.raises(OutOfMemory, match="SIGKILL") as caught:
                list(session.run_ladder(ladder_jobs(3), plan))
            assert caught.value.rows == 2

    def test_secrets_are_the_child_s_alone(self, embedded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SOME_KEY", raising=False)
        with ModelSession(ModelRef("m", embedded), QUICK, secrets={"SOME_KEY": "s3cret"}) as session:
            variables = Path(f"/proc/{session.info.pid}/environ").read_bytes().split(b"\0")
            command = Path(f"/proc/{session.info.pid}/cmdline").read_bytes()
        assert b"SOME_KEY=s3cret" in variables
        assert b"s3cret" not in command
        assert "SOME_KEY" not in os.environ

    def test_the_child_dies_with_a_killed_parent(self, embedded: Path, tmp_path: Path) -> None:
        code = (
            "import sys, time; from pathlib import Path\n"
            "from models.engines.base import EngineOptions\n"
            "from models.session import ModelRef, ModelSession\n"
            "with ModelSession(ModelRef('m', Path(sys.argv[1])), EngineOptions(engine='transformers')) as s:\n"
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
            load_engine(ModelRef("broken", tmp_path), QUICK)

"""The child process of a training, without a training: children that die, speak, or lose their parent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from models import training_process
from models.training_process import environment, line_of, run_child
from store.types import InputError, RunError

ROOT = Path(__file__).resolve().parents[2]
SPEAK = "import os, sys; pipe = os.fdopen(int(sys.argv[1]), 'w'); job = sys.stdin.read(); "


def is_alive(process: int) -> bool:
    """Whether it runs; a dead process that nobody collected does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class TestRunChild:
    def test_messages_reach_the_parent(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        said = """print(job); pipe.write('{"log": {"step": 1}}\\\\n{"log": {"step": 2}}\\\\n{"done": {"steps": 2}}\\\\n')"""
        monkeypatch.setattr(training_process, "BOOT", SPEAK + said.replace("\\\\", "\\"))
        logs: list[Any] = []
        assert run_child("the job", tmp_path / "log", None, logs.append) == {"steps": 2}
        assert logs == [{"step": 1}, {"step": 2}]
        assert (tmp_path / "log").read_text() == "the job\n"

    def test_a_killed_child_is_told_from_a_failed_one(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        cut = """print('last words', flush=True); pipe.write('{"done": '); pipe.flush(); os.kill(os.getpid(), 9)"""
        monkeypatch.setattr(training_process, "BOOT", SPEAK + cut)
        with pytest.raises(RunError, match=r"killed by SIGKILL \(out of memory\?\)(.|\n)*last words"):
            run_child("", tmp_path / "log", None, lambda _: None)
        monkeypatch.setattr(training_process, "BOOT", "import sys; sys.exit(3)")
        with pytest.raises(RunError, match="ended with code 3"):
            run_child("x" * 1_000_000, tmp_path / "log", None, lambda _: None)

    def test_an_error_of_the_listener_kills_the_child(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        slow = """import time; pipe.write('{"log": %d}\\n' % os.getpid()); pipe.flush(); time.sleep(60)"""
        monkeypatch.setattr(training_process, "BOOT", SPEAK + slow)
        seen: list[Any] = []

        def stop(process: Any) -> None:
            seen.append(process)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_child("", tmp_path / "log", None, stop)
        assert not is_alive(seen[0])

    @pytest.mark.parametrize("cause_first", [True, False])
    def test_of_several_errors_the_cause_is_told(
        self, cause_first: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        messages = [{"error": "the cause", "input": True}, {"error": "connection closed", "unforeseen": True}]
        lines = "".join(json.dumps(m) + "\n" for m in (messages if cause_first else messages[::-1]))
        monkeypatch.setattr(training_process, "BOOT", SPEAK + f"pipe.write({lines!r}); pipe.close(); sys.exit(1)")
        with pytest.raises(InputError, match=r"^the cause$"):
            run_child("", tmp_path / "log", None, lambda _: None)

    def test_what_is_no_message_is_passed_over(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        noise = b'{"error": "half of {"log": 1}\n17\n\xff\n{"done": {"steps": 2}}\n'
        monkeypatch.setattr(training_process, "BOOT", SPEAK + f"os.write(pipe.fileno(), {noise!r})")
        assert run_child("", tmp_path / "log", None, lambda _: None) == {"steps": 2}

    def test_a_package_of_the_users_that_is_called_as_ours(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "__init__.py").write_text("raise SystemExit('the wrong models')")
        monkeypatch.chdir(tmp_path)
        ours = "import json, models; pipe.write(json.dumps({'done': {'file': models.__file__}}) + chr(10))"
        monkeypatch.setattr(training_process, "BOOT", SPEAK + ours)
        found = run_child("", tmp_path / "log", None, lambda _: None)
        assert found == {"file": str(ROOT / "models" / "__init__.py")}


@pytest.mark.parametrize("text", ["short", "plain " * 2000, "größer " * 2000, "\N{PILE OF POO}" * 2000])
def test_a_message_is_one_piece_of_a_pipe(text: str) -> None:
    line = line_of({"error": text, "input": True})
    assert line.endswith("\n")
    assert len(line.encode()) <= 4096
    assert text.startswith(json.loads(line)["error"])
    assert len(line) > 4000 or json.loads(line)["error"] == text, "more of it was cut than needed"


class TestDieWithParent:
    def test_a_killed_parent_takes_its_child_along(self) -> None:
        child = (
            "import os, time; from models.training_process import die_with_parent; "
            "die_with_parent(int(os.environ['PARENT'])); print(os.getpid(), flush=True); time.sleep(60)"
        )
        parent = subprocess.Popen(
            [sys.executable, "-c", "import os, subprocess, sys; os.environ['PARENT'] = str(os.getpid()); "
             "subprocess.run([sys.executable, '-c', sys.argv[1]], start_new_session=True)", child],
            stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        assert parent.stdout is not None
        with parent.stdout as lines:
            process = int(lines.readline())
            assert is_alive(process)
            parent.kill()
            parent.wait()
        deadline = time.monotonic() + 5
        while is_alive(process):
            assert time.monotonic() < deadline, "it outlived its parent"
            time.sleep(0.02)

    def test_a_parent_that_is_gone_already_ends_it(self) -> None:
        code = "from models.training_process import die_with_parent; die_with_parent(1 << 22); print('still here')"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
        assert (done.returncode, done.stdout) == (1, "")


def test_the_environment_is_quiet_offline_and_one_gpu_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    foreign = ("ACCELERATE_MIXED_PRECISION", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK")
    for name in foreign:
        monkeypatch.setenv(name, "2")
    found = environment(threads=1)
    assert found["CUDA_VISIBLE_DEVICES"] == "2"
    assert not found.keys() & set(foreign)
    assert (found["HF_HUB_OFFLINE"], found["OMP_NUM_THREADS"]) == ("1", "1")
    assert found["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)


def test_several_gpus_are_in_sight_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5")
    monkeypatch.setenv("WORLD_SIZE", "7")
    found = environment(threads=1, gpus=2)
    assert found["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert "WORLD_SIZE" not in found
    assert environment(threads=1, gpus=2, device="cpu")["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert environment(threads=1, gpus=4)["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"

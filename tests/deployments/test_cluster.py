"""The files for clusters: they are valid, and what the Slurm scripts run comes up, on stand-ins for Slurm's two commands."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mini_study
import prefect
import pytest
import yaml

from store.home import Home

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "deployments" / "cluster"
SCRIPTS = sorted(CLUSTER.glob("*.sbatch"))
MANIFESTS = sorted((CLUSTER / "kubernetes").glob("*.yaml"))


def manifests() -> list[dict[str, Any]]:
    return [found for file in MANIFESTS for found in yaml.safe_load_all(file.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_bash(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True, check=False).stderr == b""
    checker = shutil.which("shellcheck")
    if checker is not None:
        done = subprocess.run([checker, "--shell=bash", str(script)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_what_pods_mount_and_read_is_declared() -> None:
    found = manifests()
    names = {(one["kind"], one["metadata"]["name"]) for one in found}
    assert {kind for kind, _ in names} == {"ConfigMap", "PersistentVolumeClaim", "Deployment", "RayCluster", "Job"}
    pods = [pod for one in found for pod in pods_of(one)]
    assert len(pods) == 4
    for pod in pods:
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for volume in volumes.values():
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in names
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
            assert {"configMapRef": {"name": "factscale"}} in container["envFrom"]
        assert pod["securityContext"]["runAsNonRoot"]


def pods_of(value: Any) -> list[dict[str, Any]]:
    """Every pod's specification in a manifest."""
    if isinstance(value, list):
        return [pod for item in value for pod in pods_of(item)]
    if not isinstance(value, dict):
        return []
    own = [value] if "containers" in value else []
    return own + [pod for item in value.values() for pod in pods_of(item)]


def test_pods_of_ray_have_probes_of_their_own() -> None:
    (cluster,) = (one for one in manifests() if one["kind"] == "RayCluster")
    containers = [container for pod in pods_of(cluster) for container in pod["containers"]]
    assert len(containers) == 2
    for container in containers:
        for probe in ("livenessProbe", "readinessProbe"):
            command = container[probe]["exec"]["command"]
            assert command[0] in ("ray", "test")
            assert "wget" not in command


def test_ray_is_the_version_that_is_installed() -> None:
    (cluster,) = (one for one in manifests() if one["kind"] == "RayCluster")
    pins = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"ray=={cluster["spec"]["rayVersion"]}"' in pins


def test_the_kubernetes_pool_is_prefects_own_with_gpus_and_volumes() -> None:
    views = Path(prefect.__file__).parent / "server" / "api" / "collections_data" / "views"
    known = json.loads((views / "aggregate-worker-metadata.json").read_text(encoding="utf-8"))
    theirs = known["prefect-kubernetes"]["kubernetes"]["default_base_job_configuration"]
    ours = json.loads((CLUSTER / "kubernetes" / "work-pool.json").read_text(encoding="utf-8"))
    added = set(ours["variables"]["properties"]) - set(theirs["variables"]["properties"])
    assert added == {"gpus"}
    assert set(theirs["variables"]["properties"]) < set(ours["variables"]["properties"])
    pod = ours["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"].pop("nvidia.com/gpu") == "{{ gpus }}"
    for field in ("envFrom", "volumeMounts"):
        del container[field]
    for field in ("volumes", "securityContext"):
        del pod[field]
    assert ours["job_configuration"] == theirs["job_configuration"]


SRUN = """#!/usr/bin/env bash
# Stands in for Slurm's: drops the options and runs the command here. A step that names no cores would get one.
[[ $* == *--cpus-per-task=* ]] || { echo "no cores are asked for" >&2; exit 3; }
while [[ ${1:-} == --* ]]; do shift; done
[[ $1 == hostname ]] && { echo 127.0.0.1; exit; }
exec "$@"
"""
SCONTROL = '#!/usr/bin/env bash\nprintf "%s\\n" ${3//,/ }\n'


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a job on one machine, with stand-ins for Slurm's commands."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)
    known = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "FACTSCALE"))}
    return {
        **known,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "FACTSCALE_BIN": str(Path(sys.executable).parent),
        "FACTSCALE_ROOT": str(ROOT),
        "FACTSCALE_HOME": str(tmp_path / "home"),
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": str(7_000 + os.getpid() % 1000),
        "SLURM_JOB_NODELIST": "here",
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_CPUS_PER_TASK": "2",
    }


def test_several_machines_need_a_shared_store(slurm: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", str(CLUSTER / "slurm-ray.sbatch"), "study.yaml"],
        env={**slurm, "SLURM_JOB_NODELIST": "one,two"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "FACTSCALE_STORE: 2 machines need a shared store" in done.stderr


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.timeout(900)
@pytest.mark.skipif(importlib.util.find_spec("prefect_ray") is None, reason="the extra `ray` is not installed")
def test_the_ray_job_starts_a_cluster_and_runs_the_study_on_it(tmp_path: Path, slurm: dict[str, str]) -> None:
    made = mini_study.mini(evaluate={"settings": ["instruct"]})
    study = mini_study.write(tmp_path, {**made, "fan_out": {"kind": "ray", "address": "auto"}})
    done = subprocess.run(
        ["bash", str(CLUSTER / "slurm-ray.sbatch"), str(study)],
        env=slurm,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    units = Home(tmp_path / "home").store.query(
        "SELECT versions ->> 'devices' AS devices FROM units WHERE kind = 'traces'"
    )
    assert [unit["devices"] for unit in units] == ["0"]


def test_the_workers_script_names_what_it_needs(slurm: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", str(CLUSTER / "slurm-workers.sbatch")], env=slurm, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "PREFECT_API_URL: the address of the Prefect server" in done.stderr


def test_the_workers_script_starts_workers_of_its_gpus(tmp_path: Path, slurm: dict[str, str]) -> None:
    stand_in = tmp_path / "bin"
    stand_in.mkdir()
    (stand_in / "factscale").write_text('#!/usr/bin/env bash\necho "$@"\n', encoding="utf-8")
    (stand_in / "factscale").chmod(0o755)
    given = {"PREFECT_API_URL": "http://127.0.0.1:1/api", "FACTSCALE_STORE": "s", "FACTSCALE_BIN": str(stand_in)}
    array = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "GPUS_A_WORKER": "2"}
    for devices, said in (("0,1", "workers --each 2 --name"), ("", "workers --cpu 1 --name")):
        done = subprocess.run(
            ["bash", str(CLUSTER / "slurm-workers.sbatch")],
            env={**slurm, **given, **array, "CUDA_VISIBLE_DEVICES": devices},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.startswith(said), done.stderr
        assert done.stdout.strip().endswith("-12-3")

"""What `accelerate launch` is told, read back by accelerate itself; nothing is launched here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from models.finetune import Hyperparameters, ProcessOptions
from models.launching import (
    TRAINING,
    Launch,
    _task,
    accelerate_config,
    check_devices,
    host_and_port,
    join,
    launch_arguments,
    launch_of,
    tidy,
    write_config,
)
from store.types import InputError, RunError

GPUS, NODES = (1, 2, 4, 8), (1, 2, 3, 4)


def options(**given: Any) -> ProcessOptions:
    if given.get("nodes", 1) > 1:
        given.setdefault("main_address", "node-0:29500")
    return ProcessOptions(**given)


class TestConfig:
    @pytest.mark.parametrize("gpus", GPUS)
    @pytest.mark.parametrize("nodes", NODES)
    def test_accelerate_reads_what_was_meant(self, gpus: int, nodes: int, tmp_path: Path) -> None:
        from accelerate.commands.config.config_args import load_config_from_file
        from accelerate.commands.launch import _validate_launch_command, launch_command_parser

        address = "node-0:29501" if nodes > 1 else None
        path = write_config(tmp_path, Launch(gpus, nodes, nodes - 1, address, recompute=True))
        read = load_config_from_file(str(path))
        assert (read.num_processes, read.num_machines, read.machine_rank) == (gpus * nodes, nodes, nodes - 1)
        arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(launch_arguments(path)))
        assert arguments.use_fsdp is (gpus * nodes > 1)
        assert (arguments.module, arguments.training_script) == (True, "models.training_process")
        if nodes > 1:
            assert (arguments.main_process_ip, arguments.main_process_port) == ("node-0", 29501)
        if arguments.use_fsdp:
            assert arguments.fsdp_version == 2
            assert arguments.fsdp_state_dict_type == "SHARDED_STATE_DICT"
            assert arguments.fsdp_reshard_after_forward is True
            assert arguments.fsdp_activation_checkpointing is True

    def test_the_plugin_that_workers_make_of_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from accelerate import FullyShardedDataParallelPlugin
        from accelerate.commands.launch import _validate_launch_command, launch_command_parser
        from accelerate.utils.launch import prepare_multi_gpu_env
        from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

        path = write_config(tmp_path, Launch(2))
        arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(launch_arguments(path)))
        for name, value in prepare_multi_gpu_env(arguments).items():
            if name.startswith(("FSDP_", "ACCELERATE_")):
                monkeypatch.setenv(name, value)
        plugin = FullyShardedDataParallelPlugin()
        assert (plugin.fsdp_version, plugin.reshard_after_forward, plugin.cpu_ram_efficient_loading) == (2, True, True)
        assert plugin.auto_wrap_policy is transformer_auto_wrap_policy
        assert plugin.state_dict_type.name == "SHARDED_STATE_DICT"
        assert plugin.activation_checkpointing is False

    def test_machines_write_files_of_their_own(self, tmp_path: Path) -> None:
        names = [write_config(tmp_path, Launch(1, 2, node, "a:1")).name for node in (0, 1)]
        assert names == ["accelerate.yaml", "accelerate.node1.yaml"]

    def test_nothing_is_said_of_the_precision_which_workers_choose(self) -> None:
        launch = launch_of(Hyperparameters(precision="bf16"), options(gpus=2))
        assert "mixed_precision" not in accelerate_config(launch)

    def test_dropout_is_recomputed_by_transformers(self) -> None:
        asked = options(gpus=2, gradient_checkpointing=True)
        assert launch_of(Hyperparameters(), asked).recompute
        assert launch_of(Hyperparameters(method="full"), asked).recompute
        assert not launch_of(Hyperparameters(lora_dropout=0.1), asked).recompute
        assert not launch_of(Hyperparameters(), options(gpus=2)).recompute
        assert not launch_of(Hyperparameters(), options(gradient_checkpointing=True)).recompute


class TestCheckDevices:
    def test_a_step_has_to_be_shared_out_evenly(self) -> None:
        check_devices(Hyperparameters(gradient_accumulation=8), options(gpus=4, nodes=2))
        with pytest.raises(
            InputError, match=r"gradient_accumulation: the 4 batches .* among 3 GPUs; use a multiple of 3"
        ):
            check_devices(Hyperparameters(gradient_accumulation=4), options(gpus=3))
        with pytest.raises(InputError, match=r"the 12 batches .* among 8 devices \(4 a node, 2 nodes\).* such as 16"):
            check_devices(Hyperparameters(gradient_accumulation=12), options(gpus=4, nodes=2))
        check_devices(Hyperparameters(gradient_accumulation=3), options())

    def test_qlora_has_one_gpu(self) -> None:
        check_devices(Hyperparameters(method="qlora"), options())
        with pytest.raises(InputError, match="'qlora' trains on one GPU, and this run has 2 GPUs"):
            check_devices(Hyperparameters(method="qlora"), options(gpus=2))

    def test_several_nodes_have_an_address(self) -> None:
        with pytest.raises(InputError, match="nodes and main_address go together"):
            check_devices(Hyperparameters(), ProcessOptions(nodes=2))
        with pytest.raises(InputError, match="nodes and main_address go together"):
            check_devices(Hyperparameters(), ProcessOptions(main_address="a:1"))

    @pytest.mark.parametrize("address", ["node", "node:", ":29500", "node:x", "node:0", "node:70000", "node:²"])
    def test_an_address_has_a_host_and_a_port(self, address: str) -> None:
        with pytest.raises(InputError, match=r"main_address: .* is not host:port"):
            check_devices(Hyperparameters(), options(nodes=2, main_address=address))

    def test_addresses(self) -> None:
        assert host_and_port("node-1.cluster:29500") == ("node-1.cluster", 29500)
        assert host_and_port("[fe80::1]:80") == ("fe80::1", 80)


class TestThreads:
    def test_processes_of_a_machine_share_them(self) -> None:
        assert [options(threads=8, gpus=gpus).threads_each for gpus in (1, 2, 3, 16)] == [8, 4, 2, 1]
        assert options(threads=8, gpus=2, nodes=4).threads_each == 4
        assert options().threads_each >= 1

    def test_no_more_than_this_process_may_use(self) -> None:
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(allowed)})
        try:
            assert options(gpus=1).threads_each == 1
        finally:
            os.sched_setaffinity(0, allowed)


def test_what_only_the_training_needed_is_removed(tmp_path: Path) -> None:
    gone = ("accelerate.yaml", "accelerate.node1.yaml", "train.node1.log", "failure.json", TRAINING, f"{TRAINING}.part")
    for name in (*gone, "train.log", "model.safetensors"):
        (tmp_path / name).touch()
    tidy(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"train.log", "model.safetensors"}


class TestJoin:
    def test_the_first_machine_does_not_join(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="rank: 0 is not the number of another machine"):
            join(tmp_path, 0)

    def test_the_newest_training_is_joined(self, tmp_path: Path) -> None:
        for age, name in enumerate(("b", "a", "c")):
            (tmp_path / f"{name}.partial").mkdir()
            told = tmp_path / f"{name}.partial" / TRAINING
            told.write_text(json.dumps({"attempt": name, "nodes": 2, "job": {}}))
            os.utime(told, (age, age))
        found = [_task(tmp_path, 1, joined) for joined in (set(), {"c"}, {"c", "a", "b"})]
        assert [one and one[1] for one in found] == ["c", "a", None]

    def test_nothing_begins(self, tmp_path: Path) -> None:
        # This training has two machines, and the third has no part in it.
        (tmp_path / "s.partial").mkdir()
        (tmp_path / "s.partial" / "training.json").write_text(json.dumps({"attempt": "a", "nodes": 2, "job": {}}))
        with pytest.raises(RunError, match=r"no training of several machines began there within 0\.1 seconds"):
            join(tmp_path, 2, wait=0.1)

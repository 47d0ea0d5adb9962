"""Where a process stands, by flags and by what clusters put into the environment; what is said of others."""

import argparse
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from mapjax import distributed, shard
from mapjax.data import pipeline
from mapjax.data.source import Source
from mapjax.distributed import Place, find_place
from mapjax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
OMPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}
JOBSET = {"JAX_COORDINATOR_ADDRESS": "run-workers-0-0.run:8476", "JAX_NUM_PROCESSES": "4", "JOB_COMPLETION_INDEX": "2"}


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, None),
        (SLURM, Place("SLURM")),
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        ({"SLURM_JOB_ID": "77", "SLURM_NTASKS": "2"}, None),  # the batch script itself, or salloc
        (OMPI | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"}, Place("Open MPI")),
        ({"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, None),
        (JOBSET, Place("flags", "run-workers-0-0.run:8476", 4, 2)),
        (JOBSET | {"JAX_PROCESS_ID": "3"}, Place("flags", "run-workers-0-0.run:8476", 4, 3)),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),  # a pod of no job
    ],
)
def test_what_a_cluster_says(environ, place):
    assert find_place(environ) == place


def test_jax_finds_the_same_cluster(monkeypatch):
    """JAX's own detection, for the clusters that are left to it."""
    clusters = pytest.importorskip("jax._src.clusters")
    for environ, cluster, expected in (
        (SLURM, clusters.SlurmCluster, ("node1:61517", 2, 1)),
        (OMPI | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"}, clusters.OmpiCluster, (None, 4, 3)),
    ):
        with monkeypatch.context() as patch:
            for key, value in environ.items():
                patch.setenv(key, value)
            assert cluster.is_env_present()
            address = cluster.get_coordinator_address(timeout_secs=1, override_coordinator_port=None)
            assert expected[0] in (None, address)
            assert (cluster.get_process_count(), cluster.get_process_id()) == expected[1:]


def test_tpu_chips_are_asked_unless_another_platform_is_named():
    assert find_place({}, tpu=True) == Place("TPU")
    assert find_place({"JAX_PLATFORMS": "cpu"}, tpu=True) is None


def test_flags_go_first():
    assert find_place(SLURM, coordinator="a:1", processes=3, process=0) == Place("flags", "a:1", 3, 0)
    assert find_place(SLURM, processes=1) is None
    # Only what is missing comes from the environment.
    assert find_place(SLURM, coordinator="a:1") == Place("flags", "a:1", 2, 1, 0)
    assert find_place(OMPI, coordinator="a:1") == Place("flags", "a:1", 4, 3)
    assert find_place({}, coordinator="[::1]:9", processes=2, process=1) == Place("flags", "[::1]:9", 2, 1)


@pytest.mark.parametrize(
    ("environ", "flags", "message"),
    [
        ({}, {"processes": 2}, "--coordinator and --process must be given too"),
        ({}, {"coordinator": "a:1"}, "--processes and --process must be given too"),
        ({}, {"coordinator": "host", "processes": 2, "process": 0}, "--coordinator host must be HOST:PORT"),
        ({}, {"coordinator": "a:x", "processes": 2, "process": 0}, "--coordinator a:x must be HOST:PORT"),
        ({}, {"coordinator": "a:1", "processes": 2, "process": 2}, "--process 2 must be from 0 to 1"),
        (OMPI, {}, "this Open MPI does not say where process 0 runs; add --coordinator HOST:PORT"),
    ],
)
def test_flags_that_do_not_fit(environ, flags, message):
    with pytest.raises(UserError) as error:
        find_place(environ, **flags)
    assert message in str(error.value)


def test_differences_are_named_by_process_and_key():
    same = {"config.batch": "4", "jax": "1"}
    assert distributed.difference([same, dict(same)]) == ""
    found = distributed.difference([same, same, {"config.batch": "8", "jax": "2"}])
    assert found.startswith("process 2 differs from process 0 in config.batch: 8, not 4 (and 1 more differ); start all")
    assert "in jax: missing, not 1;" in distributed.difference([same, {"config.batch": "4"}])
    assert "in more: 1, not missing;" in distributed.difference([same, {**same, "more": "1"}])


def test_alone_nothing_is_exchanged_and_jax_is_not_imported():
    assert distributed.exchange("key", "value") == ["value"]
    assert distributed.share("key", "value") == "value"
    distributed.require_same("facts", {"a": 1})
    assert distributed.is_chief() and not distributed.begun() and distributed.name() == ""
    program = (
        "import argparse, sys; from mapjax import distributed; parser = argparse.ArgumentParser(); "
        "distributed.add_arguments(parser); distributed.start(parser.parse_args([]), preemption=True); "
        "sys.exit('jax' in sys.modules)"
    )
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "OMPI", "JAX"))}
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environ, check=False).returncode == 0


def test_a_folder_that_is_not_shared(tmp_path):
    with pytest.raises(UserError, match=r"config\.json, which process 0 has made, is not seen by process 0 on .*share"):
        distributed.require_seen(tmp_path / "config.json", seconds=0.01)


WORKER = """
import argparse, json, sys
import numpy as np
sys.path[:0] = ["{root}", "{root}/tests"]
from mapjax import distributed
flags = dict(coordinator="127.0.0.1:{port}", processes={count}, process=int(sys.argv[1]), wait=100)
distributed.start(argparse.Namespace(**flags), preemption=False)
import test_distributed
read, seen = test_distributed.train_order()
print(json.dumps([read, distributed.exchange("seen", json.dumps(seen))]))
sys.stdout.flush()
distributed.leave(0)
"""


def source() -> Source:
    return Source("test", "train", ("a",), (1,), [{"id": i, "file": f"{i}.png"} for i in range(20)], {}, "")


def train_order(steps: int = 6) -> tuple[list[int], list[list[int]]]:
    """Take batches of 8 of 20 records: which records this process has read, and its rows of every batch."""
    read = []

    def note(record, rng):
        read.append(record["id"])
        return {"image": rng.integers(0, 255, (2, 2, 3), np.uint8)}

    sharding = shard.batch_sharding(shard.make_mesh({"data": -1}), 8)
    options = {"batch": 8, "seed": 3, "sharding": sharding, "threads": 1, "prefetch": 1}
    with contextlib.closing(pipeline.train_batches(source(), note, **options)) as batches:
        taken = [next(batches)["index"] for _ in range(steps)]
    rows = [sorted(batch.addressable_shards, key=lambda part: part.index[0].start or 0) for batch in taken]
    return read, [np.concatenate([np.asarray(part.data) for part in parts]).tolist() for parts in rows]


@pytest.mark.process
@pytest.mark.parametrize("count", [2, 4])
def test_every_process_reads_only_its_own_rows_of_the_same_batches(count):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = WORKER.format(root=ROOT, port=port, count=count)
    workers = [
        subprocess.Popen([sys.executable, "-c", program, str(k)], text=True, stdout=subprocess.PIPE, env={**os.environ})
        for k in range(count)
    ]
    outputs = [worker.communicate(timeout=200)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * count
    _, whole = train_order()
    for number, output in enumerate(outputs):
        read, seen = json.loads(output.splitlines()[-1])
        parts = [json.loads(text) for text in seen]
        np.testing.assert_array_equal(
            np.concatenate(parts, axis=1), np.array(whole)
        )  # the order is that of one process
        own = np.array(parts[number]).ravel().tolist()
        assert read[: len(own)] == own  # nothing else was decoded, but ahead
        rows = 8 // count
        assert len(read) <= len(own) + 8 * rows


def test_the_flags_are_those_of_every_program():
    parser = argparse.ArgumentParser()
    distributed.add_arguments(parser)
    given = parser.parse_args(["--coordinator", "a:1", "--processes", "2", "--process", "1", "--wait", "5"])
    assert (given.coordinator, given.processes, given.process, given.wait) == ("a:1", 2, 1, 5.0)

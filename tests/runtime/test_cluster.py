"""Where a process stands, by flags and by what clusters put into the environment."""

import argparse

import pytest

from mapjax.errors import UserError
from mapjax.runtime.cluster import Place, add_arguments, find_place

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


def test_the_flags_are_those_of_every_program():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = parser.parse_args(["--coordinator", "a:1", "--processes", "2", "--process", "1", "--wait", "5"])
    assert (given.coordinator, given.processes, given.process, given.wait) == ("a:1", 2, 1, 5.0)

"""The scripts for clusters, as far as they can be checked without one: their commands, and what failures do."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import jsonschema
import pytest
import yaml

from mapjax.runtime import distributed
from mapjax.runtime.cluster import Place, find_place

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = ("tpu_vm.sh", "slurm.sh")
TRAIN = ("--config", "experiments/detect.py:coco", "--workdir", "/mnt/share/a run")
TRAINED = ("resources delete", "resources create", "scp", "launch/main.py")  # on a new slice
SHELLCHECK = shutil.which(
    "shellcheck", path=os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
)


def bash(script, *args, env=None):
    command = ["bash", str(ROOT / "launch" / script), *args]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})}, check=False)


@pytest.fixture
def stubs(tmp_path):
    """Programs of a cluster that note how they are called; states.txt and codes.txt hold what they answer in turn."""
    body = f"""#!/usr/bin/env bash
    echo "${{0##*/}} $*" >> {tmp_path}/calls.txt
    case "${{0##*/}} $*" in
      *describe*) head -n 1 {tmp_path}/states.txt; sed -i 1d {tmp_path}/states.txt ;;
      *launch/main.py*) code=$(head -n 1 {tmp_path}/codes.txt); sed -i 1d {tmp_path}/codes.txt; exit "$code" ;;
    esac
    """
    for name in ("gcloud", "git", "srun", "scontrol"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(body)
        path.chmod(0o755)

    def answer(codes, states=()):
        (tmp_path / "codes.txt").write_text("".join(f"{code}\n" for code in codes))
        (tmp_path / "states.txt").write_text("".join(f"{state}\n" for state in states))
        return {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "77", "PAUSE": "0"}

    return answer, lambda: (tmp_path / "calls.txt").read_text().splitlines()


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_parse(script):
    assert subprocess.run(["bash", "-n", str(ROOT / "launch" / script)], check=False).returncode == 0


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script):
    found = subprocess.run([SHELLCHECK, str(ROOT / "launch" / script)], capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_a_slice_is_made_filled_and_used():
    env = {"NAME": "pod", "ZONE": "z", "TYPE": "v5p-64", "VERSION": "v", "SPOT": "1", "SHARE": "10.0.0.2:/runs"}
    done = bash("tpu_vm.sh", "--dry-run", "train", *TRAIN, env=env)
    assert done.returncode == 0, done.stderr
    delete, create, archive, copy, install, mount, train = done.stdout.splitlines()
    queued = "gcloud compute tpus queued-resources"
    assert delete.split() == f"{queued} delete pod --zone z --force --quiet".split()
    asked = f"{queued} create pod --node-id pod --zone z --accelerator-type v5p-64 --runtime-version v --spot"
    assert create.split() == asked.split()
    assert archive.startswith("git archive") and "scp" in copy
    on_all = "gcloud compute tpus tpu-vm ssh pod --zone z --worker=all --command "
    assert all(line.startswith(on_all) for line in (install, mount, train))
    assert "[tpu]" in install and "10.0.0.2:/runs" in mount
    # What the hosts' shells get is one argument, which they take apart to the words that were given here.
    said = shlex.split(train)[-1]
    words = shlex.split(said.partition("launch/main.py")[2])
    assert words == list(TRAIN)


def did(calls):
    """What was done to a slice, in order."""
    words = ("resources delete", "resources create", "pkill", "scp", "launch/main.py")
    return [word for call in calls() for word in words if word in call and "KILL" not in call]


def test_a_slice_that_is_taken_away_is_made_again(stubs):
    answer, calls = stubs
    env = answer([75, 0], ["", "ACTIVE", "SUSPENDED", "ACTIVE"])
    done = bash("tpu_vm.sh", "train", *TRAIN, env=env)
    assert done.returncode == 0, done.stderr
    assert "stopped with code 75; going on from the last checkpoint" in done.stdout
    assert did(calls) == ["resources delete", "resources create", "scp", "launch/main.py"] * 2


@pytest.mark.parametrize("code", [137, 255, 129, 143])
def test_a_host_that_died_is_filled_again_and_goes_on(stubs, code):
    """One that was started again has lost its mount; one that was only cut off may still train."""
    answer, calls = stubs
    done = bash("tpu_vm.sh", "train", *TRAIN, env=answer([code, 0], ["ACTIVE", "ACTIVE"]))
    assert done.returncode == 0, done.stderr
    assert f"stopped with code {code}; going on from the last checkpoint" in done.stdout
    assert did(calls) == ["pkill", "scp", "launch/main.py"] * 2


def test_a_fault_of_the_program_counts_only_while_there_is_a_slice(stubs):
    answer, calls = stubs
    done = bash("tpu_vm.sh", "train", *TRAIN, env=answer([1, 1], ["ACTIVE", "SUSPENDED", "", "ACTIVE", "ACTIVE"]))
    assert done.returncode == 1, done.stderr
    assert did(calls) == ["pkill", "scp", "launch/main.py", *TRAINED]


def test_a_run_that_is_killed_each_time_is_given_up(stubs):
    answer, calls = stubs
    done = bash("tpu_vm.sh", "train", *TRAIN, env=answer([137] * 20, ["ACTIVE"] * 20))
    assert done.returncode == 137
    assert "error: 10 tries one after the other came to nothing; the last stopped with code 137" in done.stderr
    assert did(calls).count("launch/main.py") == 10


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_a_request_that_comes_to_nothing_is_told(stubs, state):
    answer, calls = stubs
    done = bash("tpu_vm.sh", "create", env=answer([], ["WAITING_FOR_RESOURCES", "PROVISIONING", state, "ACTIVE"]))
    assert done.returncode == 255
    assert done.stdout.count("waiting for v5litepod-16") == 2
    assert f"error: the request for v5litepod-16 in us-west4-a is {state}" in done.stderr
    assert did(calls) == ["resources create"]


def test_training_asks_again_where_a_request_comes_to_nothing(stubs):
    answer, calls = stubs
    states = ["", "WAITING_FOR_RESOURCES", "FAILED", "FAILED", "CREATING", "ACTIVE"]
    done = bash("tpu_vm.sh", "train", *TRAIN, env=answer([0], states))
    assert done.returncode == 0, done.stderr
    assert did(calls) == ["resources delete", "resources create", *TRAINED]


def test_a_mistake_ends_training_on_a_slice(stubs):
    answer, calls = stubs
    done = bash("tpu_vm.sh", "train", *TRAIN, env=answer([2], ["ACTIVE", "ACTIVE"]))
    assert done.returncode == 2
    assert not [call for call in calls() if "resources create" in call or "delete" in call]


def test_slurm_starts_one_process_a_task():
    done = bash("slurm.sh", "--dry-run", *TRAIN)
    assert done.returncode == 0
    assert done.stdout.split()[:4] == ["srun", "--kill-on-bad-exit=1", ".venv/bin/python", "launch/main.py"]
    header = [line for line in (ROOT / "launch" / "slurm.sh").read_text().splitlines() if line.startswith("#SBATCH")]
    options = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in header)
    assert options["ntasks-per-node"] == options["gpus-per-node"]  # JAX gives each process one GPU there
    assert options["signal"].startswith("TERM@") and "requeue" in options


@pytest.mark.parametrize(
    ("code", "again"), [(0, False), (2, False), (distributed.LOST, True), (143, True), (137, True), (129, True)]
)
def test_slurm_queues_again_what_was_stopped(stubs, code, again):
    answer, calls = stubs
    done = bash("slurm.sh", *TRAIN, env=answer([code]))
    assert done.returncode == code
    assert ("scontrol requeue 77" in calls()) == again


@pytest.mark.parametrize(("script", "words"), [("slurm.sh", ()), ("tpu_vm.sh", ("train",))])
def test_a_run_that_may_be_stopped_needs_a_name(script, words):
    done = bash(script, *words, "--config", "experiments/detect.py")
    assert done.returncode == 2
    assert "--workdir DIR must be given" in done.stderr


def test_the_tpu_script_explains_itself():
    done = bash("tpu_vm.sh")
    assert done.returncode == 2
    assert "bash launch/tpu_vm.sh create" in done.stdout and "set -euo" not in done.stdout


def mistakes(jobset):
    """What Kubernetes would say of a JobSet: names that it does not know, values that it does not take."""
    schema = json.loads((ROOT / "tests" / "launch" / "jobset.schema.json").read_text())
    return sorted(error.json_path for error in jsonschema.Draft202012Validator(schema).iter_errors(jobset))


def test_the_schema_is_one_and_finds_mistakes():
    schema = json.loads((ROOT / "tests" / "launch" / "jobset.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    text = (ROOT / "launch" / "jobset.yaml").read_text()
    for right, wrong, where in [
        ("enableDNSHostnames", "enableDnsHostnames", "$.spec.network"),
        ("maxRestarts: 20", "maxRestarts: '20'", "$.spec.failurePolicy.maxRestarts"),
        ("[PodFailurePolicy]", "[PodFailure]", "$.spec.failurePolicy.rules[0].onJobFailureReasons[0]"),
        ("completionMode: Indexed", "completionMode: indexed", "$.spec.replicatedJobs[0].template.spec.completionMode"),
        ("restartPolicy: Never", "restartPolicy: OnFailure", ".template.spec.template.spec.restartPolicy"),
        ('value: "4"', "value: 4", ".containers[0].env[1].value"),
        ("mountPath: /share", "path: /share", ".containers[0].volumeMounts[0]"),
        ("claimName", "claim", ".volumes[0].persistentVolumeClaim"),
    ]:
        assert right in text
        found = mistakes(yaml.safe_load(text.replace(right, wrong)))
        assert found and all(path.endswith(where) for path in found), (wrong, found)


def test_the_jobset_is_one():
    """By JobSet's API v1alpha2; and its parts fit together."""
    jobset = yaml.safe_load((ROOT / "launch" / "jobset.yaml").read_text())
    assert mistakes(jobset) == []
    [workers] = jobset["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    assert job["backoffLimit"] == 0 and job["completionMode"] == "Indexed"
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # a podFailurePolicy asks for it
    [container] = pod["containers"]
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == container["name"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert container["command"][-1] == "launch/main.py"
    assert (ROOT / container["args"][0].removeprefix("--config=").partition(":")[0]).exists()


def test_the_pods_of_the_jobset_find_each_other():
    jobset = yaml.safe_load((ROOT / "launch" / "jobset.yaml").read_text())
    [workers] = jobset["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    environ = {entry["name"]: entry["value"] for entry in container["env"]}
    assert all(isinstance(value, str) for value in environ.values())
    # A pod's host name is JOBSET-REPLICATEDJOB-JOB-POD, its domain the JobSet's name.
    port = container["ports"][0]["containerPort"]
    address = f"{jobset['metadata']['name']}-{workers['name']}-0-0.{jobset['metadata']['name']}:{port}"
    count = job["parallelism"]
    assert job["completions"] == count and workers["replicas"] == 1
    for number in range(count):
        there = environ | {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": str(number)}
        assert find_place(there) == Place("flags", address, count, number)

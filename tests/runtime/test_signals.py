"""Signals that ask to leave: which are heard, and that none is lost before the loop begins where JAX catches them."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# In a process of its own: a signal that is not caught would end the tests.
ALONE = """
import os, signal
from mapjax.runtime.signals import Stop
{before}
with Stop() as stop:
    assert not stop.after(1)
    os.kill(os.getpid(), signal.{name})
    print(stop.after(2), stop.signal == signal.{name})
"""

# A SIGTERM that comes while a run is prepared, of a run that goes on from step 500.
JOINED = """
import argparse, os, signal, sys, time
from mapjax.runtime import distributed, signals as stop
flags = dict(coordinator="127.0.0.1:{port}", processes=1, process=0, wait=60)
distributed.start(argparse.Namespace(**flags), preemption=True)
if "{when}" == "before":
    os.kill(os.getpid(), signal.{name})
    time.sleep(3)  # JAX looks once a second
with stop.Stop(together=distributed.joined()) as asked:
    steps = iter(range(501, 520))
    if "{when}" == "within":
        assert not asked.after(next(steps))
        os.kill(os.getpid(), signal.{name})
        time.sleep(3)
    print(next(step for step in steps if asked.after(step)), int(asked.signal), flush=True)
distributed.leave(0)
"""

# What comes before the loop leaves by an exception, which a library may swallow.
EARLY = """
import os, signal, time
from mapjax.cli import terminal
from mapjax.runtime import signals as stop
def main(argv):
    try:
        os.kill(os.getpid(), signal.{name})
        time.sleep(5)
    except SystemExit as error:
        print(error.code)
    with stop.Stop() as asked:
        print(asked.after(1), int(asked.signal))
terminal.run_main(main)
"""


def printed(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


@pytest.mark.usefixtures("hangups_heard")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_asks_to_leave(name):
    assert printed(ALONE.format(name=name, before="")) == ["True", "True"]


def test_a_hangup_that_nohup_ignores_stays_ignored():
    before = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    assert printed(ALONE.format(name="SIGHUP", before=before)) == ["False", "False"]


@pytest.mark.usefixtures("hangups_heard")
@pytest.mark.parametrize(("name", "number"), [("SIGTERM", 15), ("SIGHUP", 1)])
def test_a_signal_before_the_loop_is_not_lost_with_its_exception(name, number):
    assert printed(EARLY.format(name=name)) == [str(128 + number), "True", str(number)]


@pytest.mark.process
@pytest.mark.usefixtures("hangups_heard")
@pytest.mark.parametrize(("name", "when", "step"), [("SIGTERM", "before", 501), ("SIGHUP", "within", 502)])
def test_where_jax_catches_signals_none_is_lost(name, when, step):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert printed(JOINED.format(name=name, when=when, port=port)) == [str(step), "15"]

"""`mapjax`: its help, its mistakes, and what each program says of itself."""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest

import mapjax
from mapjax.cli import main, terminal
from mapjax.config import load as configs
from mapjax.errors import UserError


def call(monkeypatch, capsys, *words):
    """Run `mapjax WORDS` in this process; gives its exit code, and what it printed and complained of."""
    monkeypatch.setattr(sys, "argv", ["mapjax", *words])
    monkeypatch.setattr(terminal, "settle", lambda *, quiet: None)  # of the whole process
    with pytest.raises(SystemExit) as left:
        main.main()
    said = capsys.readouterr()
    return left.value.code or 0, said.out, said.err


def help_of(name, monkeypatch, capsys):
    code, text, _ = call(monkeypatch, capsys, name, "--help")
    assert code == 0
    return text


def examples(text):
    """The commands of a help text, as words; what stands in brackets at their end is said to the reader."""
    lines = re.sub(r"\\\n +", "", text.partition("examples:")[2]).splitlines()
    commands = [line.partition("   (")[0] for line in lines if line.strip().startswith("mapjax ")]
    return [shlex.split(command.replace("…", "")) for command in commands]


def test_the_help_shows_every_program_with_an_example(monkeypatch, capsys):
    code, text, _ = call(monkeypatch, capsys, "--help")
    assert code == 0
    for name, program in main.PROGRAMS.items():
        assert f"\n  {name:<9} {program.purpose}\n" in text
        assert f"mapjax {name} {program.example}\n" in text
    assert call(monkeypatch, capsys, "--version")[:2] == (0, f"mapjax {mapjax.__version__}\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", r"say what to do: mapjax PROGRAM …, one of train, predict"),
        ("trian --config detect", r"there is no program 'trian'\. Did you mean 'train'"),
        ("--config detect", r"the program comes first: mapjax train --config …"),
        ("--config detect plan", r"the program comes first: mapjax plan --config …"),
        ("train", r"the following arguments are required: --config; mapjax train --help"),
        ("train detect:bccd", r"unknown argument 'detect:bccd'; did you mean --config detect:bccd\?"),
        ("train --congif detect", r"unknown argument '--congif'\. Did you mean '--config'"),
        ("train --config detct", r"there is no such file\. Did you mean 'detect'"),
        ("train --config detect:bcd", r"no variant 'bcd'\. Did you mean 'bccd'"),
        ("train --config detect more", r"unknown argument 'more'; mapjax train --help"),
        ("bench --rounds few", r"--rounds: invalid int value: 'few'; mapjax bench --help"),
        ("bench --segmentation --input x", r"say what to time with one of"),
        ("predict --workdir a --weights b --images c --out d", "give either --workdir or --weights"),
        ("bench --networks resnt50", r"--networks resnt50: not known\. Did you mean 'resnet50'"),
    ],
)
def test_a_mistake_is_one_sentence_and_code_2(monkeypatch, capsys, words, sentence):
    code, _, complaint = call(monkeypatch, capsys, *words.split())
    assert code == 2
    assert re.fullmatch(f"error: .*{sentence}.*\n", complaint)


@pytest.mark.parametrize("name", main.PROGRAMS)
def test_the_examples_of_a_program_are_read_by_it(monkeypatch, capsys, name):
    """Every option in an example is one of that program; every config that mapjax ships has that variant."""
    text = help_of(name, monkeypatch, capsys)
    script = "main" if name == "train" else name
    assert f"usage: mapjax {name} " in text and text.count(f"python launch/{script}.py") == 1
    options = set(re.findall(r"--[\w.]+", text.partition("examples:")[0]))
    found = [*examples(text), ["mapjax", name, *shlex.split(main.PROGRAMS[name].example)]]
    assert len(found) > 1
    for _, program, *words in found:
        known = options if program == name else set(re.findall(r"--[\w.]+", help_of(program, monkeypatch, capsys)))
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert {word for word in given if not word.startswith("--config.")} <= known, words
        shipped = words[words.index("--config") + 1] if "--config" in words else ""
        if shipped and ".py" not in shipped:
            overrides = {w.partition("=")[0][9:]: w.partition("=")[2] for w in words if w.startswith("--config.")}
            configs.load(shipped, overrides)


def test_names_of_folders():
    names = ("detect", "detect:bccd", "experiments/detect.py", "a/detect.py:bccd", "runs/x/config.json")
    assert [configs.label(name) for name in names] == [
        "detect", "detect-bccd", "detect", "detect-bccd", "config",
    ]  # fmt: skip


def test_the_scripts_of_launch_and_the_module_are_these_programs():
    """The one process of each kind: what is installed calls main.main, launch/plan.py and `-m mapjax` as well."""
    commands = (["-m", "mapjax", "plan"], ["launch/plan.py"])
    options = {"cwd": pathlib.Path(__file__).parents[2], "capture_output": True, "text": True}
    ended = [subprocess.run([sys.executable, *command], **options) for command in commands]
    assert {done.returncode for done in ended} == {2}
    assert ended[0].stderr == ended[1].stderr == "error: the following arguments are required: --config; " \
        "mapjax plan --help shows examples.\n"  # fmt: skip


def test_a_start_loads_only_what_it_needs():
    """JAX takes a second, scikit-learn and TensorFlow Datasets more: neither the package nor a help waits for them."""
    code = (
        "import contextlib, io, sys\n"
        "import mapjax\n"
        "assert mapjax.__version__\n"
        "from mapjax.cli import main\n"
        "for name in ('', *main.PROGRAMS):\n"
        "    sys.argv = ['mapjax', *filter(None, [name]), '--help']\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as said:\n"
        "        main.main()\n"
        "    assert 'mapjax' in said.getvalue()\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = {
        "jax",
        "numpy",
        "cv2",
        "sklearn",
        "scipy",
        "orbax",
        "grain",
        "flax",
        "tensorflow_datasets",
    }
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "mapjax" in loaded and not loaded & slow


def test_an_unknown_part_of_a_program_is_a_user_error():
    made = terminal.parser("train", "what it does", "an example")
    made.add_argument("--steps", type=int)
    with pytest.raises(UserError, match="--steps: invalid int value: 'x'; mapjax train --help"):
        terminal.parse(made, ["--steps", "x"])

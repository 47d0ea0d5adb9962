import json
import sys

import pytest

from mapjax.config import keys
from mapjax.config import load as configs
from mapjax.errors import UserError

PARTS = {"transform": {"name": "crops"}, "model": {"name": "tiny"}, "task": {"name": "classify"}}
EXPERIMENT = f"""
def get_config(variant="plain"):
    return {{
        "init_from": variant, "batch": 16, "image_size": (4, 6), "data": {{"name": "digits"}}, **{PARTS},
        "optimizer": {{"learning_rate": 0.1, "name": "sgd", "nesterov": True}},
    }}
"""


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "study.py"
    path.write_text(EXPERIMENT)
    return str(path)


def test_overrides_keep_their_types(experiment):
    names = configs.load(experiment, {"optimizer.freeze": "('backbone')"}).optimizer.freeze
    assert names == configs.load(experiment, {"optimizer.freeze": "backbone"}).optimizer.freeze == ("backbone",)
    text = {
        "batch": "8",
        "schedule.power": "1",
        "optimizer.nesterov": "false",
        "image_size": "(5, 7)",
        "task.views": "3",
    }
    config = configs.load(experiment + ":other", text | {"optimizer.learning_rate": "3e-4", "eval_size": "[8, 9]"})
    assert config.init_from == "other"
    assert (config.batch, config.schedule.power, config.image_size, config.task.views) == (8, 1.0, (5, 7), "3")
    assert (config.optimizer.learning_rate, config.optimizer.nesterov, config.eval_size) == (3e-4, False, (8, 9))
    assert isinstance(config.schedule.power, float)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optimzer.learning_rate", "1", "no such key. Did you mean 'optimizer.learning_rate'"),
        ("learning_rate", "1", "Did you mean 'optimizer.learning_rate'"),
        ("optimizer.learning_rat", "1", "Did you mean 'optimizer.learning_rate'"),
        ("batch", "many", "expected a value like 16"),
        ("batch", "1.5", "expected a value like 16"),
        ("optimizer.nesterov", "3", "expected a value like True"),
        ("image_size", "3", "expected a value like"),
        ("image_size", "('4')", "expected a value like"),
        ("eval_size", "3", "must be a tuple or None"),
        ("ema", "much", "expected a value like 0.0"),
        ("batch.size", "3", "no such key"),
        ("ema", "2", "ema=2 must be from 0 to 1"),
        ("optimizer.clip", "-1", "must be at least 0"),
        ("schedule.at", "(2,)", "must be shares between 0 and 1"),
        ("dtype", "bfloat17", "must be float32 or bfloat16 or float16"),
        ("seed", "1" * 23, r"must be from 0 to 2\*\*32 - 1"),
        ("splits", "{'train': (), 'eval': ()}", "must be a name, or several"),
        ("eval_size", "('a', 'b')", "must be height and width in pixels"),
        ("image_size", "(30000, 30000)", r"of at most 2\*\*28 together"),
        ("metrics", "(5,)", "must be names, or dicts with a name"),
        ("optimizer.freeze", "(5,)", "must be regular expressions"),
        ("streams", "{'u': {'data': 'digits'}}", r"streams\.u\.data='digits' must be a dict"),
        ("optimizer", "{'lr': 1.0}", "there is no key 'optimizer.lr'"),
    ],
)
def test_a_wrong_override_is_one_sentence(experiment, key, value, message):
    with pytest.raises(UserError, match=message) as caught:
        configs.load(experiment, {key: value})
    assert f"--config.{key}" in str(caught.value)


def test_a_missing_file_and_a_file_without_config(tmp_path, experiment):
    with pytest.raises(UserError, match=r"no such file. Did you mean '.*study.py'"):
        configs.load(experiment.replace("study", "stduy"))
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match="defines no get_config"):
        configs.load(str(tmp_path / "empty.py"))


def test_a_users_file_may_say_little_or_give_a_config_dict(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        f"def get_config(): return ConfigDict({PARTS | {'ema': 0, 'optimizer': {'factors': (('b', 2.0),)}}})\n"
    )
    config = configs.load(str(path), {"ema": "0.9"}, data="digits")
    assert config.is_locked and config.ema == 0.9 and config.data.name == "digits"
    assert config.optimizer.lr_multipliers == (("b", 2.0),) and "factors" not in config.optimizer
    assert config.batch == 32 and config.every.save == "500 steps" and config.mesh.data == -1


def test_parts_of_its_author_lie_beside_a_recipe(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "beside.py").write_text("SIDE = 8\n")
    (tmp_path / "mine.py").write_text(
        f"import beside\ndef get_config(): return {PARTS} | {{'image_size': (beside.SIDE, beside.SIDE)}}\n"
    )
    assert configs.load(str(tmp_path / "mine.py"), data="digits").image_size == (8, 8)
    assert sys.path[-1] == str(tmp_path)  # so that none of them hides what is installed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batchsize": 8}, r"mine\.(py|json): there is no key 'batchsize'\. Did you mean 'batch'"),
        ({"optimizer": {"lr": 0.1}}, r"there is no key 'optimizer\.lr'"),
        ({"optimizer": "sgd"}, "optimizer='sgd' must be a dict"),
        ({"batch": "8"}, "batch='8' must be a whole number"),
        ({"keep": True}, "keep=True must be a whole number"),
        ({"eval_size": 8}, "eval_size=8 must be a tuple or None"),
        ({1: 2}, "there is no key 1"),
        ({"seed": 1.5}, r"seed=1\.5 must be a whole number"),
        ({"every": {"foo": 1}}, r"there is no key 'every\.foo'"),
        ({"image_size": None}, "image_size=None must be a tuple"),
        ({"mesh": {"data": "x"}}, r"mesh\.data='x' must be a whole number"),
        ({"input": {"threads": "2"}}, r"input\.threads='2' must be a whole number"),
        ({"splits": {"train": None}}, r"splits\.train=None must be text or a tuple"),
        ({"transform": None}, "transform=None must be a dict"),
        ({"streams": {"": {"data": {"name": "digits"}}}}, "streams has the name ''; choose a word"),
        ({"streams": {3: {"data": {"name": "digits"}}}}, "streams has the name 3"),
        ({"streams": {"u": {"data": {"name": "digits"}, "batch": "8"}}}, r"streams\.u\.batch='8' must be a whole"),
        ({"streams": {"u": {"data": {"name": "digits"}, "shares": 2}}}, "has no key 'shares'. Did you mean 'share'"),
        ({"streams": {"u": {}}}, r"streams\.u must name its data"),
        ({"data": {"name": 5}}, "names no data"),
        ({"model": {"depth": 18}}, "names no model; write for example model={'name'"),
        ({"task": {}}, "names no task"),
    ],
)
def test_a_file_that_is_no_config(tmp_path, given, message):
    path = tmp_path / "mine.py"
    path.write_text(f"def get_config(): return {PARTS | {'data': {'name': 'digits'}} | given}\n")
    with pytest.raises(UserError, match=message):
        configs.load(str(path))
    path = tmp_path / "mine.json"
    if 1 not in given and 3 not in given.get("streams", {}):  # JSON has no such keys
        path.write_text(json.dumps(PARTS | {"data": {"name": "digits"}} | given))
        with pytest.raises(UserError, match=message):
            configs.load(str(path))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine.py", "def get_config(:", r"is not Python: .* \(line 1\)"),
        ("mine.py", "get_config = 5", r"defines no get_config\(\)"),
        ("mine.py", "def get_config(a): return {}", "needs a variant; write .*mine.py:VARIANT"),
        ("README.md", "# Read me", "this file is no Python; write an experiment FILE.py"),
    ],
)
def test_a_file_that_is_no_experiment(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        configs.load(str(tmp_path / name))


def test_a_config_of_a_run_has_a_file_but_no_sweep(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert configs.find(str(tmp_path / "config.json")) == tmp_path / "config.json"
    with pytest.raises(UserError, match=r"a config\.json has no sweep\(\); name an experiment"):
        configs.call(str(tmp_path / "config.json"), "sweep")


def test_a_file_called_as_a_recipe_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "detect").touch()
    monkeypatch.chdir(tmp_path)
    assert configs.load("detect").task.name == "two_stage"


def test_a_file_of_0_1_is_told_of_todays_defaults(tmp_path, capsys):
    path = tmp_path / "mine.py"
    for word, said in (("factors", "is written for 0.1; what it leaves out has today's"), ("lr_multipliers", "")):
        path.write_text(f"def get_config(): return {PARTS | {'optimizer': {word: ()}}}\n")
        assert configs.load(str(path), data="digits").optimizer.weight_decay == 0.05
        assert said in (warned := capsys.readouterr().err) and bool(said) == bool(warned)


def test_a_file_that_gives_no_dict(tmp_path):
    (tmp_path / "mine.py").write_text("def get_config(): return None\n")
    with pytest.raises(UserError, match=r"get_config\(\) must give a dict, not None"):
        configs.load(str(tmp_path / "mine.py"))


def test_a_variant_that_does_not_exist():
    with pytest.raises(UserError, match=r"there is no variant 'bcd'\. Did you mean 'bccd'"):
        configs.load("experiments/detect.py:bcd")
    with pytest.raises(
        UserError,
        match=r"there is no variant 'x'\. Known: bccd, bccd_cascade, bccd_fcos, bccd_retinanet, bccd_rtdetr, ",
    ):
        configs.load("detect:x")


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("scenes", {"name": "scenes"}),
        ("voc:a/b", {"name": "voc", "path": "a/b"}),
        ("coco:annotations=a.json,images=d", {"name": "coco", "annotations": "a.json", "images": "d"}),
        ("voc:path=d,hold_out=0.2", {"name": "voc", "path": "d", "hold_out": 0.2}),
        ("coco:path=d,masks=true", {"name": "coco", "path": "d", "masks": True}),
    ],
)
def test_data(experiment, text, node):
    assert configs.load(experiment, data=text).data.to_dict() == node


@pytest.mark.parametrize("text", ["voc:", ":dir", ""])
def test_data_without_a_format_or_path(experiment, text):
    with pytest.raises(UserError, match="FORMAT:PATH"):
        configs.load(experiment, data=text)


@pytest.mark.parametrize("text", ["./mine", "mine/data", "/mine:a", "voc:path=a,classes"])
def test_data_without_its_format(experiment, text):
    with pytest.raises(UserError, match=r"say its format before the path|is no KEY=VALUE"):
        configs.load(experiment, data=text)


def test_a_folder_named_like_a_format_is_no_obstacle(experiment, tmp_path, monkeypatch):
    (tmp_path / "coco").mkdir()
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert configs.load(experiment, data="coco:coco").data.path == "coco"
    with pytest.raises(UserError, match="say its format before the path: voc:mine"):
        configs.load(experiment, data="mine")


def test_plain_and_back():
    config = configs.from_dict({"rules": (1, (2, 3)), "data": {"c": None, "d": {}}})
    again = configs.from_dict(configs.to_dict(config))
    assert again.to_dict() == config.to_dict() and again.rules == (1, (2, 3))
    with pytest.raises(AttributeError):
        again.e = 1


def test_differences_are_named():
    old, new = {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 5}, "e": 6}
    assert list(configs.differences(old, new)) == ["b.c: 2 → 5", "b.d: 3 → None", "e: None → 6"]


def test_names_of_classes_stay_with_their_own_data(tmp_path):
    path = tmp_path / "named.py"
    own = {"name": "idx", "path": "a/b", "classes": ("shirt", "boot"), "hold_out": 0.2}
    path.write_text(f"def get_config(): return {PARTS | {'data': own}}\n")
    assert configs.load(str(path), data="idx:a/b").data.to_dict() == own
    other = {"name": "idx", "path": "c", "hold_out": 0.2}
    assert configs.load(str(path), data="idx:c").data.to_dict() == other
    assert configs.load(str(path), {"data.path": "c"}).data.to_dict() == own | {"path": "c"}
    given = configs.load(str(path), data="idx:path=c,classes=a|b")
    assert given.data.to_dict() == {"name": "idx", "path": "c", "classes": "a|b"}


def test_the_config_of_a_run_is_an_experiment(experiment, tmp_path):
    config = configs.load(experiment)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(configs.to_dict(config)))
    again = configs.load(str(path))
    assert again.to_dict() == config.to_dict() and again.is_locked
    key, value = next((key, value) for key, value in keys.flat_values(config) if type(value) is int)
    assert configs.to_dict(configs.load(str(path), {key: str(value + 1)})) != configs.to_dict(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such file"),
        ("folder", "it is a folder"),
        ("{", "is no config of a run"),
        ("[[1]]", "is no config of a run"),
        ('"x"', "is no config of a run: it holds 'x'"),
    ],
)
def test_a_json_that_is_no_config(tmp_path, text, message):
    if text == "folder":
        (tmp_path / "config.json").mkdir()
    elif text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=f"config.json:? {message}"):
        configs.load(str(tmp_path / "config.json"))

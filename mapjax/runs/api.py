"""The Python API: train, load, ask and score runs from a script or a notebook.

run = mapjax.load("runs/mine")
found = run.predict("photo.jpg")      # in a notebook, `found` shows itself
run.evaluate(data="voc:DIR")["AP"]
"""

import base64
import dataclasses
import functools
import html
import os
import pathlib
import reprlib
import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from mapjax.config import load as configs
from mapjax.config import migrate
from mapjax.data import skeletons
from mapjax.data.skeletons import Points
from mapjax.engine import evaluate as scoring
from mapjax.errors import UserError
from mapjax.report import views
from mapjax.runs import evaluation, pretrained, setup, svms, thresholds, trained
from mapjax.runs import fit as training
from mapjax.runs import predict as predicting
from mapjax.runs import score as scores
from mapjax.runtime import log, names
from mapjax.runtime import workdir as workdirs
from mapjax.task import Task, Variables

Image = str | os.PathLike | np.ndarray


class Found(NamedTuple):
    """What a run has found on one image; fields that its task does not give are None.

    In a notebook it shows the drawing.

    file: the image's path, "array" for an array.
    image: as it was answered, RGB and upright.
    drawing: the image with what was found, RGB.
    names: a class for each box, the classes of the image that are probable enough, or those that have pixels.
    said: what was found, in a few words.
    boxes: x1,y1,x2,y2 in pixels of `image`, the most confident first.
    scores: of the boxes, 0 to 1.
    classes: of the boxes, as places in the run's `classes`.
    label: the most probable class of the image.
    probabilities: of all classes.
    label_map: the class of each pixel of `image`, as a place in the run's `classes`.

    Example:
      >>> import numpy as np
      >>> import mapjax
      >>> image = np.zeros((4, 6, 3), np.uint8)
      >>> mapjax.Found("a.jpg", image, image, ["cat"], "cat 90 %")
      Found(a.jpg, 6×4: cat 90 %)
    """

    file: str
    image: UInt8[np.ndarray, "h w 3"]
    drawing: UInt8[np.ndarray, "a b 3"]
    names: list[str]
    said: str
    boxes: Float[np.ndarray, "n 4"] | None = None
    scores: Float[np.ndarray, "n"] | None = None
    classes: Int[np.ndarray, "n"] | None = None
    label: str | None = None
    probabilities: Float[np.ndarray, "c"] | None = None
    label_map: UInt8[np.ndarray, "h w"] | None = None

    def __repr__(self) -> str:
        """Say in a line what was found, without the arrays."""
        height, width = self.image.shape[:2]
        return names.shown(f"Found({self.file}, {width}×{height}: {self.said})")

    def _repr_png_(self) -> bytes:
        return cv2.imencode(".png", self.drawing[..., ::-1])[1].tobytes()

    def _repr_html_(self) -> str:
        data = base64.b64encode(self._repr_png_()).decode("ascii")
        said = html.escape(repr(self)[len("Found(") : -1])
        return f'<figure><img src="data:image/png;base64,{data}" alt="{said}"><figcaption>{said}</figcaption></figure>'


@dataclasses.dataclass(frozen=True, repr=False)
class Trained:
    """A trained run to ask: `load` and `fit` give one.

    folder: its workdir, or the weights.
    step: of the checkpoint.
    classes: the names of what it knows.
    config: what it was trained by.
    task: what its network was trained for.
    variables: its parameters and statistics.
    answer: function(variables, batch) -> Result, compiled once for each shape.
    learned: the fingerprints of its data.
    points: the names of the keypoints that it finds of an object, and its skeleton.

    Example:
      run = mapjax.load("runs/mine")
      run.classes, run.step, run.config.image_size
    """

    folder: pathlib.Path
    step: int
    classes: tuple[str, ...]
    config: Any
    task: Task
    variables: Variables
    answer: scoring.Answer
    learned: Mapping[str, str] = dataclasses.field(default_factory=dict)
    points: Points = skeletons.NONE

    def __repr__(self) -> str:
        """Say which run it is, and what it knows in short."""
        short = reprlib.Repr()
        short.maxtuple = 12
        return f"Trained(folder={self.folder!r}, step={self.step}, classes={short.repr(self.classes)})"

    @property
    def thresholds(self) -> dict[str, float]:
        """The score of each class that is best for its F1 on the held-out split; {} where it was not evaluated."""
        folder = self._run_folder()
        return {} if folder is None else thresholds.stored(folder, self)

    def _run_folder(self) -> pathlib.Path | None:
        return self.folder if self.folder.is_dir() else None

    def predict(
        self, images: Image | Sequence[Image], *, score: float | str | os.PathLike | None = None, enlarge: bool = False
    ) -> Any:
        """Answer images.

        Args:
          images: the path of an image or of a folder of images, an array (uint8, h w 3, RGB), or a list of these.
          score: what is less confident, 0 to 1, is not found; "f1" is the best of each class, or the result.json of an
            evaluation has it. None: "f1" for a detector that was evaluated, else 0.5.
          enlarge: draw small images 2 or 4 times as large.

        Returns:
          A `Found` for one image, a list of them for a folder or a list.

        Raises:
          UserError: an image that is not there, or cannot be read; or no such threshold.

        Example:
          found = mapjax.load("runs/mine").predict("photo.jpg")
          found.names, found.boxes, found.scores        # of a detector
          PIL.Image.fromarray(found.drawing).save("seen.png")
        """
        least = thresholds.choose(score, self, self._run_folder(), "score=").value
        single = isinstance(images, np.ndarray) or (isinstance(images, Image) and not pathlib.Path(images).is_dir())
        given = [images] if isinstance(images, Image) else list(images) if isinstance(images, Iterable) else [images]
        files = [file for one in given for file in _files(one)]
        known = {"classes": self.classes, "skeleton": self.points.skeleton}
        show = functools.partial(views.show, **known, score=least, enlarge=enlarge)
        answers = predicting.by_config(self.config, self.answer, self.variables, files)
        found = [_found(answer, show) for answer in answers]
        return found[0] if single else found

    def evaluate(self, data: str | None = None, *, split: str | None = None) -> dict[str, float]:
        """Score the run on its own held-out split, on another one, or on other data with the same classes.

        Args:
          data: other data, as "voc:DIR".
          split: the name of its split.

        Returns:
          The scores by the field's names: "AP", "AP50/cat", "top1", "mIoU".

        Raises:
          UserError: no such data or split, or classes that the run has not learned.

        Example:
          mapjax.load("runs/mine").evaluate(data="voc:DIR", split="test")["AP50"]
        """
        source = scores.open_source(self.config, self.classes, data=data, split=split, learned=self.learned)
        quiet = log.Log(None, quiet=True)
        mesh = scoring.make_mesh(self.config.mesh.to_dict(), self.config.eval_batch, quiet.say)
        metric = setup.make_metric(self.config, self.task, source)
        placed = scoring.place(self.variables, mesh)
        return evaluation.make_evaluation(self.config, self.task, metric, source, mesh, quiet, placed)(placed).metrics


def load(
    source: str | os.PathLike, *, checkpoint: str | int = "best", trust: bool = False, **overrides: Any
) -> Trained:
    """Load a trained run, or published weights.

    Args:
      source: the workdir of a run, as "runs/mine"; or weights: a name as "torchvision/resnet50.DEFAULT", a file of
        such, or NAME:FILE.
      checkpoint: of a run: "best" by its metric, "last", or a step.
      trust: it may name modules that are not mapjax's own, whose code is run.
      **overrides: keys of its config to answer by, as for `fit`.

    Raises:
      UserError: no run or weights there, no such checkpoint, or a key that its config has not.

    Example:
      run = mapjax.load("runs/mine")
      run.classes
      run.predict("photo.jpg")
      mapjax.load("efficientnet_lite0").predict("photo.jpg").label
    """
    if not isinstance(source, str | os.PathLike):
        raise UserError(f"{source!r} is no run; name its folder, as 'runs/mine', or weights.")
    path, chosen = pathlib.Path(source), _as_text(overrides)
    is_word = not isinstance(source, os.PathLike) and os.sep not in source and not path.exists()
    if not path.is_dir() and (is_word or pretrained.is_named(os.fspath(source))):
        found = pretrained.load(os.fspath(source), overrides=chosen)
    else:
        found = trained.load(path, which=str(checkpoint), overrides=chosen, trusted=trust)
    found = svms.answering(found, log.Log(None, quiet=True))
    answer = scoring.make_answer(found.task)
    known = found.classes, found.config, found.task, found.variables
    return Trained(path, found.step, *known, answer, found.learned, found.points)


def fit(
    config: str | os.PathLike | Mapping[str, Any] | ConfigDict,
    *,
    workdir: str | os.PathLike | None = None,
    data: str | None = None,
    trust: bool = False,
    **overrides: Any,
) -> Trained:
    """Train what a config describes, evaluate it, and load it; what `mapjax train` does.

    A run that was stopped goes on where it was, when its folder is named; a finished one is only evaluated again.

    Args:
      config: "detect:bccd", "mine.py:large", the config.json of a run, or a dict of your own making.
      workdir: folder of the run; by default runs/DATE-NAME.
      data: a data set, as "voc:DIR"; by default the config's.
      trust: a config.json, or a run to start from, may name modules that are not mapjax's own; their code is run.
      **overrides: keys of the config with their values; one inside another by `**{"optimizer.learning_rate": 3e-4}`.

    Raises:
      UserError: something that you can mend, in one sentence.
      KeyboardInterrupt, SystemExit: it was stopped by Ctrl-C or another signal, and is saved.

    Example:
      run = mapjax.fit("detect:bccd", data="voc:DIR", duration="20 epochs", batch=8)
      run.evaluate(split="test")
    """
    text = _as_text(overrides)
    if isinstance(config, str | os.PathLike):
        config = os.fspath(config)
        experiment, name = configs.find(config.partition(":")[0]), configs.label(config)
        chosen = configs.load(config, text, data=data, trust=trust)
    else:
        experiment, name = None, "fit"
        if not isinstance(config, Mapping | ConfigDict):
            raise UserError(f"config={config!r} must be the name of one, as 'detect:bccd', or a dict.")
        plain = configs.to_dict(config) if isinstance(config, ConfigDict) else _plain(config)
        chosen = configs.from_dict(migrate.migrated(plain))
        chosen = chosen if data is None else configs.with_data(chosen, data)
        configs.override_all(chosen, text)
    folder = workdirs.dated(name) if workdir is None else pathlib.Path(workdir)
    if stopped := training.fit(chosen, folder, experiment, trust=trust).get("stopped"):
        # It is saved; what called this has been asked to end too.
        raise KeyboardInterrupt if stopped == signal.SIGINT else SystemExit(128 + stopped)
    return load(folder, trust=True)


def predict(
    run: Trained | str | os.PathLike,
    images: Image | Sequence[Image],
    *,
    score: float | str | os.PathLike | None = None,
) -> Any:
    """Answer images with a run, or with the run in a folder; see `Trained.predict`.

    Example:
      for found in mapjax.predict("runs/mine", ["a.jpg", "b.jpg"]):
        print(found.file, found.names)
    """
    return _loaded(run).predict(images, score=score)


def evaluate(
    run: Trained | str | os.PathLike, data: str | None = None, *, split: str | None = None
) -> dict[str, float]:
    """Score a run, or the run in a folder; see `Trained.evaluate`.

    Example:
      mapjax.evaluate("runs/mine")["top1"]
    """
    return _loaded(run).evaluate(data, split=split)


def _files(image: Any) -> Sequence[Any]:
    if isinstance(image, np.ndarray):
        return [image]
    if not isinstance(image, str | os.PathLike):
        raise UserError(f"{image!r} is no image; give a path, an array (uint8, h w 3, RGB) or a list of these.")
    if not pathlib.Path(image).exists():
        raise UserError(f"{image}: there is no such image, and no such folder of images.")
    return predicting.find_images(image)


def _loaded(run: Trained | str | os.PathLike) -> Trained:
    return run if isinstance(run, Trained) else load(run)


def _as_text(overrides: Mapping[str, Any]) -> dict[str, str]:
    """Write values as the command line has them."""
    plain = {key: _plain(value) for key, value in overrides.items()}
    return {key: value if isinstance(value, str) else repr(value) for key, value in plain.items()}


def _plain(value: Any) -> Any:
    """Give a value as a config has it: numbers of NumPy's as Python's, paths as text."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _found(answer: predicting.Answer | predicting.Unreadable, show: Any) -> Found:
    if isinstance(answer, predicting.Unreadable):
        raise UserError(answer.reason)
    shown = show(answer.result, answer.image)
    values: dict[str, Any] = shown.values
    names = values.get("names", values.get("found", list(values.get("shares", ()))))
    boxes = {"boxes", "scores", "classes"} <= values.keys()
    return Found(
        answer.file,
        answer.image,
        shown.drawing,
        list(names),
        shown.said,
        np.array(values["boxes"], np.float32).reshape(-1, 4) if boxes else None,
        np.array(values["scores"], np.float32) if boxes else None,
        np.array(values["classes"], np.int32) if boxes else None,
        values.get("predicted"),
        np.asarray(answer.result["probabilities"]) if "probabilities" in answer.result else None,
        shown.label_map,
    )

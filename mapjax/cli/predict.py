"""Answer your own images with a trained run, or with published weights.

Writes to --out each image with its answer drawn, and predictions.json: a list with the file, its width and height
and what was found: a detector's boxes x1,y1,x2,y2 in pixels of the upright image, scores, classes and their names (and
category_ids where they are COCO's); a classifier's class, its probability and the next ones; of a segmenter the share
of each class, and `mask`, a PNG whose pixels are the classes in the order of the run's classes.json. `drawing` is the
drawing's own name: of a.png and a.jpg one becomes a-2.jpg. How the run answers can be changed: large images at their
own size, by windows (a segmenter) or in slices (a detector), more views, other thresholds.

A detector with masks adds `masks`, COCO's run lengths, and `mask`, a PNG of 16 bits whose pixels have the number of
their object in the list, from 1 on; one of keypoints adds `keypoints`, x,y,score of each.

A detector's boxes count from the score on that is best for F1 of their class, where the run was evaluated (every
training ends so); else from 0.5 on, as with weights. --score S says otherwise: 0.3 for all classes, f1 for the best, or
the result.json of another evaluation.

--format writes a detector's boxes from --score on, and their masks and keypoints, as labels too: yolo (labels/NAME.txt,
classes.txt), coco (coco.json, whose objects have a score), voc (Annotations/NAME.xml) or instances (label images).
"""

import functools
import pathlib
import sys
from collections.abc import Sequence

from mapjax.cli import network, terminal
from mapjax.errors import UserError, printable

EXAMPLES = """
mapjax predict --weights efficientnet_lite0 --images photo.jpg --out seen
mapjax predict --workdir runs/mine --images photo.jpg --out seen
mapjax predict --workdir runs/mine --images photos/ --out seen --score 0.7
mapjax predict --weights yolox_nano --images photos/ --out seen --score scores/result.json
mapjax predict --workdir runs/mine --images photos/ --out seen --format coco
mapjax predict --workdir runs/mine --images large/ --out seen --config.eval_size="(3000, 4000)" \
    --config.task.window="(360, 480)" --config.eval_batch=1
mapjax predict --weights yolox_nano --images large/ --out seen --config.slices.size="(640, 640)"
"""


def main(argv: Sequence[str]) -> int:
    """Run it; gives the exit code."""
    parser = terminal.parser("predict", __doc__ or "", EXAMPLES)
    network.add_arguments(parser)
    parser.add_argument("--images", required=True, type=pathlib.Path, metavar="PATH", help="an image, or a folder")
    parser.add_argument("--out", required=True, type=pathlib.Path, metavar="DIR", help="where the drawings go")
    parser.add_argument(
        "--score", metavar="S", help="score threshold: 0 to 1, f1 (where the run has it; else 0.5), or a result.json"
    )
    parser.add_argument("--format", metavar="FORM", help="write labels too: yolo, coco, voc or instances")
    parser.add_argument("--enlarge", action="store_true", help="draw small images 2 or 4 times larger")
    terminal.add_overrides(parser, "answer with another value of the run's config")
    arguments, overrides = terminal.parse(parser, argv, config=True)
    network.name(arguments)

    from mapjax.data.prepared import export
    from mapjax.runs import predict, thresholds

    thresholds.require_form(arguments.score)
    if arguments.format is not None:
        export.require_form(arguments.format)
    files = predict.find_images(arguments.images, leave_out=arguments.out)
    print(f"mapjax: {len(files)} image(s); starting JAX …", flush=True)

    from mapjax.engine import evaluate
    from mapjax.report import views
    from mapjax.runtime import log

    loaded = network.load(arguments, overrides)
    threshold = thresholds.choose(arguments.score, loaded, arguments.workdir)
    if threshold.told:
        print(printable(threshold.told), flush=True)
    answers = predict.by_config(loaded.config, evaluate.make_answer(loaded.task), loaded.variables, files)
    names = predict.output_names(files, arguments.images)
    tracked = log.Log(None).track(answers, "predict", len(files))
    options = {"classes": loaded.classes, "score": threshold.value, "enlarge": arguments.enlarge}
    options |= {"skeleton": loaded.points.skeleton}
    show = network.with_categories(functools.partial(views.show, **options), loaded.classes)
    known = loaded.classes, loaded.points
    labels = export.Answers(arguments.out, arguments.format, *known) if arguments.format else None
    try:
        saved = predict.save(tracked, names, arguments.out, show, labels.add if labels else None)
    finally:
        if labels:
            labels.close()
    for unreadable in saved.unreadable:
        print(f"left out: {printable(unreadable.reason)}", file=sys.stderr)
    if not saved.images:
        raise UserError(f"--images {arguments.images}: none of the {len(files)} image(s) can be read.")
    print("\n".join(map(printable, saved.said)))
    if (more := saved.images - len(saved.said)) > 0:
        print(f"… and {more} more in {arguments.out / 'predictions.json'}")
    left = f"; {len(saved.unreadable)} could not be read" if saved.unreadable else ""
    found = f"{saved.findings} finding(s) from {threshold.said} on"
    print(f"{saved.images} image(s) answered in {arguments.out}, {found}{left}")
    return 0

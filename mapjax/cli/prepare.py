"""Turn a data set of any format into sharded ArrayRecord files, to be read at random from many hosts or gs://.

Images keep their encoded bytes; labels go along, and once more into a small file of their own, so that a million
images open in seconds. Every shard has a checksum. A run that was stopped goes on where it stopped when the command
is given again, and gives the same bytes. Train on the result with --data array_record:DIR.

With --format it is written as a YOLO, COCO or VOC data set instead, for other programs: images with their bytes, and
the boxes; --needs masks or keypoints writes those too. --format instances writes a label image for each image, whose
pixels have the number of their object.

With --proposals it finds boxes that may hold an object, by selective search, for networks that are given them (R-CNN
and Fast R-CNN: docs/detection.md). They are kept in --out, by default the folder "proposals" beside the data.
"""

import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mapjax.cli import terminal

if TYPE_CHECKING:
    from mapjax.data.source import Source

EXAMPLES = """
mapjax prepare --data voc:DIR --out prepared
mapjax prepare --data coco:DIR --out prepared --splits train,val --workers 8
mapjax prepare --data coco:DIR --out prepared --needs keypoints
mapjax prepare --data folder:IMAGES.zip --out prepared --shards 16 --shuffle 0
mapjax prepare --data voc:DIR --out as_yolo --format yolo
mapjax prepare --data yolo:DIR --out as_coco --format coco --needs masks
mapjax prepare --data coco:DIR --out as_numbers --format instances --needs masks
mapjax prepare --data voc:DIR --splits trainval,test --proposals fast
mapjax prepare --out prepared --verify                  (compare all checksums)
mapjax train --config detect:bccd --data array_record:prepared
gcloud storage cp -r prepared gs://BUCKET/ && mapjax train … --data array_record:gs://BUCKET/prepared
"""

RECALL_OF = (100, 300, 1000, 2000)  # proposals of an image


def main(argv: Sequence[str]) -> int:
    """Run it; gives the exit code."""
    parser = terminal.parser("prepare", __doc__ or "", EXAMPLES)
    parser.add_argument("--data", metavar="FORMAT:PATH", help="any data set that mapjax train --data takes")
    parser.add_argument("--out", metavar="DIR", help="folder to write, or to --verify")
    parser.add_argument(
        "--splits", default="", metavar="A,B", help="which splits (those of train, val, test there are)"
    )
    parser.add_argument(
        "--needs",
        metavar="KIND",
        help="labels to store, that a task learns from: boxes, masks, keypoints, label_map … (the format's usual ones)",
    )
    parser.add_argument(
        "--format", metavar="FORM", help="write yolo, coco, voc or instances (label images) instead of shards"
    )
    parser.add_argument(
        "--shards", type=int, default=0, metavar="N", help="files of each split (one for 2,500 records)"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (one a CPU core)"
    )
    parser.add_argument(
        "--shuffle", type=int, metavar="SEED", help="write the records in a random order (the source's)"
    )
    parser.add_argument(
        "--proposals", metavar="MODE", help="find proposals instead, by selective search: fast or quality"
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare checksums; with --data, write damaged shards again"
    )
    arguments, _ = terminal.parse(parser, argv)

    from mapjax.errors import UserError
    from mapjax.runtime import log

    say = log.Log(None)
    if arguments.out is None and not arguments.proposals:
        raise UserError("--out DIR is missing: say which folder to write, or to --verify.")
    if arguments.proposals:
        return _propose(arguments, say)
    if arguments.data is None:
        if not arguments.verify:
            raise UserError("--data FORMAT:PATH is missing: say what to prepare, or --verify what is in --out.")
        say.say(_table(_verify(str(arguments.out), say)))
        return 0
    if arguments.format is not None:
        return _export(arguments, say)
    start = time.perf_counter()
    index, written = _prepare(arguments, say)
    say.say(_table(index))
    seconds = time.perf_counter() - start
    done = f"{written} shards written in {seconds:.1f} s" if written else "nothing to do: all shards were there"
    say.say(f"{done}; train on them with --data array_record:{arguments.out}")
    return 0


def _prepare(arguments: Any, say: Any) -> tuple[dict[str, Any], int]:
    from mapjax.config import load as configs
    from mapjax.data.prepared import prepare

    node = configs.parse_data(arguments.data)
    asked = tuple(name.strip() for name in arguments.splits.split(",") if name.strip())
    sources = prepare.open_splits(node, asked, arguments.needs)
    if not asked and prepare.has_split(node, "trainval"):
        say.say(
            "trainval is left out: a recipe that names it, as detect:bccd, trains on train and is scored on val; "
            "--splits trainval,test keeps it."
        )
    for warning in _overlaps(node["name"], sources):  # once prepared, the files cannot be told to be the same
        say.say(f"warning: {warning}")
    out = pathlib.Path(arguments.out)
    plan = prepare.make_plan(sources, out, arguments.shards, arguments.shuffle, arguments.needs)
    total = sum(len(source.records) for source in sources.values())
    say.say(f"{arguments.data}: {total:,} records of {', '.join(sources)} → {len(plan.jobs)} shards in {out}")
    with say.bar("prepare", total) as bar:
        return prepare.prepare(
            sources,
            out,
            plan,
            data=arguments.data,
            workers=arguments.workers,
            verify=arguments.verify,
            progress=bar.update,
        )


def _propose(arguments: Any, say: Any) -> int:
    """Find the proposals of each split."""
    from mapjax.config import load as configs
    from mapjax.data import proposals
    from mapjax.data.prepared import prepare, proposing
    from mapjax.data.selective_search import require_mode
    from mapjax.errors import UserError

    require_mode(arguments.proposals, "--proposals")
    if arguments.data is None:
        raise UserError("--data FORMAT:PATH is missing: say of which images --proposals are to be found.")
    if arguments.verify or arguments.format or arguments.shards or arguments.shuffle is not None:
        raise UserError("--verify, --format, --shards and --shuffle are of shards; leave them out, or --proposals.")
    node = configs.parse_data(arguments.data)
    asked = tuple(name.strip() for name in arguments.splits.split(",") if name.strip())
    path = str(node.get("path") or "")
    out = pathlib.Path(arguments.out) if arguments.out else proposals.folder_of(path)
    for split, source in prepare.open_splits(node, asked, arguments.needs or "boxes").items():
        start = time.perf_counter()
        with say.bar(split, len(source.records)) as bar:
            found = proposing.write(source, out, arguments.proposals, workers=arguments.workers, progress=bar.update)
        seconds = time.perf_counter() - start
        took = f"{found.made:,} images in {seconds:.1f} s" if found.made else "all were there"
        if found.made and arguments.workers > 1:
            took += f", by {arguments.workers} processes"
        say.say(f"{split}: {found.boxes / found.images:,.0f} proposals an image; {took}")
        if found.boxes:
            say.say(f"{split}: {_recall(proposals.attach(source, str(out)))}")
        if found.empty:
            say.say(f"{split}: {found.empty:,} images have no proposal")
    say.say(f"train on them with --config.proposals={proposals.BESIDE if arguments.out is None else out}")
    return 0


def _recall(source: Any) -> str:
    """Say how many of the true boxes have a proposal: no network that is given these finds more."""
    from mapjax.data import labels, selective_search
    from mapjax.data.source import truth_of

    truth = [truth_of(source, index) for index in range(len(source.records))]
    if not any(labels.has(record, "boxes") and len(record["boxes"]) for record in truth):
        return "no true boxes are known to compare them with"
    said = []
    for count in RECALL_OF:
        parts = [record["proposals"][:count] for record in truth], [record["boxes"] for record in truth]
        low, high = (selective_search.recall(*parts, iou) for iou in (0.5, 0.7))
        said.append(f"{low:.3f} and {high:.3f} by the first {count:,}")
    return f"recall of true boxes at IoU 0.5 and 0.7: {'; '.join(said)}"


def _export(arguments: Any, say: Any) -> int:
    """Write another format's files."""
    from mapjax.config import load as configs
    from mapjax.data.prepared import export, prepare
    from mapjax.errors import UserError

    export.require_form(arguments.format)
    if arguments.verify or arguments.shards or arguments.shuffle is not None:
        raise UserError("--verify, --shards and --shuffle are of shards; leave them out, or --format.")
    asked = tuple(name.strip() for name in arguments.splits.split(",") if name.strip())
    needs = arguments.needs or "boxes"
    sources = prepare.open_splits(configs.parse_data(arguments.data), asked, needs)
    out = pathlib.Path(arguments.out)
    with say.bar("write", sum(len(source.records) for source in sources.values())) as bar:
        written = export.write(sources, out, arguments.format, bar.update)
    for split, count in written.images.items():
        say.say(f"{split}: {count:,} images, {written.objects[split]:,} objects")
    for reason, count in written.lost.items():
        say.say(f"left out: {count:,} × {reason}")
    say.say(f"read it with --data {arguments.format}:{out}")
    return 0


def _overlaps(name: str, sources: "Mapping[str, Source]") -> list[str]:
    from mapjax.config import formats
    from mapjax.data.checks import quality

    if formats.is_embedded(name) or "train" not in sources:
        return []
    train = quality.inspect(sources["train"], 0)
    others = [quality.inspect(source, 0) for split, source in sources.items() if split != "train"]
    return [warning for other in others if (warning := quality.overlap(train, other))]


def _verify(out: str, say: Any) -> dict[str, Any]:
    from mapjax.data.prepared import reader

    index = reader.read_index(out)
    for name, split in index["splits"].items():
        reader.require_sizes(out, [split["labels"], *split["shards"]])
        reader.read_truth(out, split)
        with say.bar(f"verify {name}", len(split["shards"])) as bar:
            reader.require_checksums(out, split["shards"], bar.update)
    say.say(f"{out}: all checksums are right")
    return index


def _table(index: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table("split", "records", "shards", "MB", "left out", title=f"{index['data']}: {_labels(index)}")
    for name, split in index["splits"].items():
        size = sum(shard["bytes"] for shard in split["shards"]) / 1e6
        lost = ", ".join(f"{len(where)} × {reason}" for reason, where in split["dropped"].items()) or "–"
        table.add_row(name, f"{split['records']:,}", str(len(split["shards"])), f"{size:,.1f}", lost)
    return table


def _labels(index: dict[str, Any]) -> str:
    return ", ".join(index.get("kinds", [index["kind"]])) or "images alone"

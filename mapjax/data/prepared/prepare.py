"""From the splits of any source to a folder that `array_record:DIR` reads: plan, write the shards, then the index.

What is written is a function of the source and of the plan alone, whatever the workers, and however often it stopped.
"""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mapjax.config import formats, parts
from mapjax.data import images, labels, splits
from mapjax.data.prepared import encoding, shards, truth
from mapjax.data.prepared import reader as array_record
from mapjax.data.prepared.reader import FORMAT, INDEX, VERSION
from mapjax.data.prepared.shards import DONE, TMP, Job, Written, write_file
from mapjax.data.source import Source
from mapjax.errors import NoSuchSplit, UserError, near
from mapjax.runtime import checksum
from mapjax.runtime.names import require_text

DEFAULT_SPLITS = ("train", "val", "test")
PLAN = "plan" + TMP
_PER_SHARD, _MOST_SHARDS = 2500, 512  # records; files that one process may hold open


class Plan(NamedTuple):
    """What a run makes: the digest tells it from any other; the jobs are in the order of the index."""

    digest: str
    jobs: tuple[Job, ...]


def open_splits(node: Mapping[str, Any], asked: Sequence[str], needs: str | None = None) -> dict[str, Source]:
    """Open the splits asked for; without any, those of train, val and test that there are.

    Nothing is held out of "train" for a "val" that is not asked for, so that no image is lost.

    Args:
      node: of a source in a config, `{"name": "voc", "path": "DIR"}`.
      asked: names of splits.
      needs: the kind of label that a task will learn from, "" for images alone; None: what the format has by default.

    Raises:
      UserError: no such split, a name that is not fit for a file, two splits with other classes, or data without labels
        of that kind.
    """
    if needs and needs not in labels.KINDS:
        raise UserError(f"--needs {needs!r} is no kind of label.{near(needs, labels.KINDS)}")
    offered = {} if needs is None else {"needs": needs}
    whole = asked and "val" not in map(splits.kind_of, asked) and not formats.is_embedded(node["name"])
    node = splits.without_hold_out(node) if whole else node
    sources: dict[str, Source] = {}
    for name in asked or DEFAULT_SPLITS:
        if not re.fullmatch(r"[\w.-]+", name):
            raise UserError(
                f"--splits {name!r}: a split's name becomes a file's; use letters, digits, '.', '-' and '_'."
            )
        try:
            sources[name] = parts.make("data.formats", node, split=name, **offered)
        except NoSuchSplit:
            if asked or name == "train":
                raise
    first = next(iter(sources.values()))
    for name, source in sources.items():
        if source.classes != first.classes:
            raise UserError(
                f"{source.name}: the splits {first.split!r} and {name!r} have other classes; name them in order, "
                "--data FORMAT:path=DIR,classes='a;b'."
            )
    if needs and not labels.serve(found := _kinds_of(first), needs):
        raise UserError(
            f"{first.name} has {', '.join(found) or 'no labels'}, not the {needs} of --needs; leave that out, or name "
            "other data."
        )
    return sources


def _kinds_of(source: Source) -> list[str]:
    """Tell the kinds of labels of the records of a source by the first that can be read."""
    for index in range(len(source.records)):
        with contextlib.suppress(UserError):
            return labels.present(source.records[index])
    return []


def has_split(node: Mapping[str, Any], name: str) -> bool:
    """Tell whether a source has a split that can be opened."""
    try:
        parts.make("data.formats", node, split=name)
    except UserError:
        return False
    return True


def make_plan(
    sources: Mapping[str, Source], out: pathlib.Path, count: int, shuffle: int | None, needs: str | None = None
) -> Plan:
    """Decide which record goes where: `count` shards of each split (0: by its size), as even as can be.

    `needs` is that of `open_splits`: with other labels it is another plan.

    Raises:
      UserError: a number that is negative, or a split without records.
    """
    if count < 0:
        raise UserError(f"--shards {count}: write how many files each split becomes, at least 1.")
    jobs = []
    for split, source in sources.items():
        length = len(source.records)
        if length == 0:
            raise UserError(f"{source.name} has no images in its split {split!r}; leave it out of --splits.")
        rows = np.arange(length) if shuffle is None else np.random.default_rng(shuffle).permutation(length)
        pieces = min(count or min(math.ceil(length / _PER_SHARD), _MOST_SHARDS), length)
        for number, part in enumerate(np.array_split(rows, pieces)):
            jobs.append(Job(split, str(out / f"{split}-{number:05d}-of-{pieces:05d}.array_record"), part))
    first = next(iter(sources.values()))
    facts = [VERSION, first.classes, first.category_ids, shuffle, *([] if needs is None else [needs])]
    facts += [[split, source.fingerprint, len(source.records)] for split, source in sources.items()]
    facts += [[pathlib.Path(job.path).name, len(job.rows)] for job in jobs]
    return Plan(hashlib.sha256(json.dumps(facts).encode()).hexdigest(), tuple(jobs))


def prepare(
    sources: Mapping[str, Source],
    out: pathlib.Path,
    plan: Plan,
    *,
    data: str,
    workers: int = 1,
    verify: bool = False,
    progress: Callable[[int], None] = lambda records: None,
) -> tuple[dict[str, Any], int]:
    """Write what of a plan is not there yet, and the index at last.

    Args:
      data: where it comes from, for the index.
      verify: of a finished data set, compare the checksums too, not only the sizes.
      progress: told now and then how many records have been written.

    Returns:
      The index, and how many shards were written by this call.

    Raises:
      UserError: `out` holds something else or cannot be written, or the source is another than before.
    """
    begin(out, plan)
    if (out / INDEX).exists():
        index = array_record.read_index(str(out))
        return index, repair(sources, out, plan, index, workers, verify, progress)
    written = {job.path: done for job in plan.jobs if (done := shards.finished(job)) is not None}
    missing = [job for job in plan.jobs if job.path not in written]
    for done in shards.write_all(missing, sources, workers, progress):
        written[str(out / done.entry["file"])] = done
    try:
        index = write_index(sources, out, plan, [written[job.path] for job in plan.jobs], data)
        for file in (out / PLAN, *out.glob(f"*{DONE}"), *out.glob(f"*.partial{TMP}")):
            file.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); make room, and run the command again.") from error
    return index, len(missing)


def begin(out: pathlib.Path, plan: Plan) -> None:
    """Make the folder of a plan, or find that it is one.

    Raises:
      UserError: it cannot be made, or holds anything else.
    """
    mend = "name another --out, or remove it"
    if "://" in str(out) or re.match(r"\w\w+:/[^/]", str(out)):
        raise UserError(
            f"--out {out}: shards are written to a disk; name a folder, and copy it to the cloud afterwards."
        )
    require_text(out, "--out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = os.listdir(out)
        if INDEX in names:
            held = array_record.read_index(str(out)).get("plan")
        elif PLAN in names:
            held = (out / PLAN).read_text(encoding="utf-8", errors="replace").strip()
        elif all(name.endswith(TMP) for name in names):
            write_file(out / PLAN, plan.digest.encode())
            return
        else:
            raise UserError(f"{out} holds files already, such as {min(names)}; {mend}.")
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); name another --out.") from error
    if held != plan.digest:
        raise UserError(f"{out} holds another data set, or this one by other options or before it changed; {mend}.")


def _fault(source: Source) -> str:
    """Say what is wrong with the first record."""
    try:
        images.read(source.records[0]["image"])
    except (OSError, UserError) as error:
        return str(error)
    return "it is whole now; run the command again."


def write_index(
    sources: Mapping[str, Source], out: pathlib.Path, plan: Plan, written: Sequence[Written], data: str
) -> dict[str, Any]:
    """Write the labels of each split, and the index.

    Raises:
      UserError: of a split, not one image could be read.
    """
    first = next(iter(sources.values()))
    entries, kinds = {}, list[str]()
    for split, source in sources.items():
        mine = [done for job, done in zip(plan.jobs, written) if job.split == split]
        arrays = truth.join([done.labels for done in mine])
        if not arrays:
            count = f"none of the {len(source.records)} images of {split!r} can be read"
            raise UserError(f"{source.name}: {count}, such as the first: {_fault(source)}")
        dropped = {reason: list(where) for reason, where in source.dropped.items()}
        for done in mine:
            for reason, where in done.dropped.items():
                dropped.setdefault(reason, []).extend(where)
        shard_entries = [done.entry for done in mine]
        kinds = kinds or _kinds_in(out / next(entry["file"] for entry in shard_entries if entry["records"]))
        stored = _write_labels(out, split, arrays)
        content = "".join(entry["sha256"] for entry in (stored, *shard_entries))
        entries[split] = {
            "records": len(arrays["id"]),
            "fingerprint": hashlib.sha256(content.encode()).hexdigest()[:16],
            "labels": stored,
            "shards": shard_entries,
            "dropped": dropped,
            "noted": {reason: list(where) for reason, where in source.noted.items()},
        }
    index = {
        "format": FORMAT,
        "version": VERSION,
        "data": data,
        "kind": kinds[0] if kinds else "",  # all that mapjax 0.1 reads of them
        "kinds": kinds,
        "classes": list(first.classes),
        "category_ids": list(first.category_ids),
        "keypoints": list(first.keypoints),
        "skeleton": [list(pair) for pair in first.skeleton],
        "sigmas": list(first.sigmas),
        "plan": plan.digest,
        "splits": entries,
    }
    write_file(out / INDEX, (json.dumps(index, indent=1) + "\n").encode("ascii"))
    return index


def repair(
    sources: Mapping[str, Source],
    out: pathlib.Path,
    plan: Plan,
    index: Mapping[str, Any],
    workers: int,
    verify: bool,
    progress: Callable[[int], None],
) -> int:
    """Write the files of a finished data set again that are missing or damaged; gives how many shards.

    Raises:
      UserError: a shard comes out different, because the images of the source have changed.
    """
    entries = {shard["file"]: shard for split in index["splits"].values() for shard in split["shards"]}
    good = [
        size == entry["bytes"]
        for entry, size in zip(entries.values(), array_record.sizes(str(out), [*entries.values()]))
    ]
    if verify:
        good = [ok and is_whole(out, entry) for ok, entry in zip(good, entries.values())]
    bad = {name for name, ok in zip(entries, good) if not ok}
    jobs = [job for job in plan.jobs if pathlib.Path(job.path).name in bad]
    for done in shards.write_all(jobs, sources, workers, progress):
        (out / f"{done.entry['file']}{DONE}").unlink(missing_ok=True)
        if done.entry != entries[done.entry["file"]]:
            raise UserError(
                f"{out / done.entry['file']} came out different from before: the images of the source have changed; "
                "remove the folder and prepare the data anew."
            )
    for name, split in index["splits"].items():
        if not is_whole(out, split["labels"]):
            found = truth.join([_labels_in(out / shard["file"]) for shard in split["shards"]])
            if _write_labels(out, name, found) != split["labels"]:
                raise UserError(
                    f"{out} was prepared by an earlier mapjax, which packed labels otherwise; remove the folder and "
                    "prepare the data anew."
                )
    return len(jobs)


def is_whole(out: pathlib.Path, entry: array_record.Entry) -> bool:
    """Tell whether a file is there with the checksum of its entry."""
    try:
        return checksum.sha256(out / entry["file"]) == entry["sha256"]
    except OSError:
        return False


def _write_labels(out: pathlib.Path, split: str, arrays: truth.Arrays) -> dict[str, Any]:
    data = truth.save(arrays)
    file = out / f"{split}.labels.npz"
    write_file(file, data)
    return {"file": file.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _labels_in(shard: pathlib.Path) -> truth.Arrays:
    """Read the labels out of a shard.

    Raises:
      UserError: it is damaged.
    """
    try:
        return truth.pack([encoding.decode(data) for data in _reader(shard).read_all()])
    except (ValueError, RuntimeError, OSError) as error:
        reason = str(error).partition(";")[0]
        raise UserError(f"{shard} is damaged ({reason}); run the command again with --verify.") from error


def _kinds_in(shard: pathlib.Path) -> list[str]:
    """Tell the kinds of labels of the records of a shard by its first."""
    return labels.present(encoding.decode(_reader(shard).read(0, 1)[0]))


def _reader(shard: pathlib.Path) -> Any:
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]  # compiled

    return array_record_module.ArrayRecordReader(str(shard))

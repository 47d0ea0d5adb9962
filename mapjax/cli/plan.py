"""Say beforehand what a train step will take: memory, FLOPs, bytes, collectives, and the least time.

Compiles the real step without running it, for a TPU slice or a node of GPUs (--topology; none is needed, only its
compiler: pip install -e '.[tpu]' or '.[cuda12]') or for the local devices. Where the data is not here, the shapes are
those of its config. All figures are the compiler's for one chip; times are bounds from published figures of the chip,
not measurements.
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from mapjax.cli import terminal
from mapjax.errors import UserError

EXAMPLES = """
mapjax plan --config detect:coco --topology v5e:2x4
mapjax plan --config detect:coco --topology v5e:16x16 --batch 256
mapjax plan --config detect:coco --topology h100:8
mapjax plan --config classify:imagenet --topology v5p:4x4x4 --mesh data=16,model=4 --batch 1024
mapjax plan --config detect:coco --topology v5e:2x4 --batch auto
mapjax plan --config classify:imagenet --topology v6e:2x4 --mesh auto
mapjax plan --config classify:vit_large --topology v5p:2x4x4 --mesh fsdp=32
mapjax plan --config classify                                    (the local devices)
"""


def main(argv: Sequence[str]) -> int:
    """Run it; gives the exit code."""
    arguments, overrides = terminal.parse(_parser(), argv, config=True)

    auto = arguments.batch == "auto"
    if auto and arguments.mesh == "auto":
        raise UserError("--batch auto and --mesh auto: choose one; the largest batch depends on the mesh.")

    from mapjax.plan import topology

    topology.prepare(arguments.topology)

    from mapjax.config import load as configs

    if arguments.batch is not None and not auto:
        overrides["batch"] = arguments.batch
    config = configs.load(arguments.config, overrides, data=arguments.data, trust=arguments.trust)
    print(f"mapjax: planning {arguments.config}; starting JAX …", flush=True)

    from mapjax.plan import job

    sizes = None if arguments.mesh in (None, "auto") else job.read_mesh(arguments.mesh)
    asked = job.Asked(arguments.config, config, arguments.topology, sizes, arguments.classes, arguments.examples)
    values: Any
    if arguments.mesh == "auto":
        values = job.rank(asked)
    else:
        values = job.plan(asked, largest=auto, program=arguments.program)
    if arguments.json is not None:
        from mapjax.runtime import workdir

        workdir.write_json(arguments.json, values)
        print(f"written to {arguments.json}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = terminal.parser("plan", __doc__ or "", EXAMPLES)
    terminal.add_config(parser, required=True, example="dtype=bfloat16")
    parser.add_argument(
        "--topology", metavar="CHIP:LAYOUT", help="TPU slice or GPUs of a node, as v5e:2x4 or h100:8 (local devices)"
    )
    parser.add_argument("--mesh", metavar="AXIS=N,…", help="as data=64,model=4, or auto: rank them (the config's)")
    parser.add_argument(
        "--batch",
        metavar="N",
        help="of all chips together, or auto: the largest that fits a step (the config's)",
    )
    parser.add_argument("--data", metavar="FORMAT:PATH", help="other data than the config's")
    parser.add_argument("--classes", type=int, metavar="N", help="plan for so many classes, without reading the data")
    parser.add_argument("--examples", type=int, metavar="N", help="and so many training images")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="also write all figures here")
    parser.add_argument("--program", type=pathlib.Path, metavar="FILE", help="also write the compiled program here")
    return parser

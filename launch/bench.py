"""Measure speed: `mapjax bench`."""

from mapjax.cli import bench, terminal

if __name__ == "__main__":
    terminal.run_main(bench.main)

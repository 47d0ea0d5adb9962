"""Run a study: `mapjax ablate`."""

from mapjax.cli import ablate, terminal

if __name__ == "__main__":
    terminal.run_main(ablate.main)

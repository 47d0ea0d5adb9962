"""Score a trained run: `mapjax evaluate`."""

from mapjax.cli import evaluate, terminal

if __name__ == "__main__":
    terminal.run_main(evaluate.main)

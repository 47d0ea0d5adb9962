"""Train and evaluate what an experiment file describes: `mapjax train`."""

from mapjax.cli import terminal, train

if __name__ == "__main__":
    terminal.run_main(train.main)

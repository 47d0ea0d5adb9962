"""Turn a data set into shards: `mapjax prepare`."""

from mapjax.cli import prepare, terminal

if __name__ == "__main__":
    terminal.run_main(prepare.main)

"""Train with a fault every minute: `mapjax soak`."""

from mapjax.cli import soak, terminal

if __name__ == "__main__":
    terminal.run_main(soak.main)

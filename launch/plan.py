"""Say beforehand what a train step will take: `mapjax plan`."""

from mapjax.cli import plan, terminal

if __name__ == "__main__":
    terminal.run_main(plan.main)

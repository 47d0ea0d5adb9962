"""Watch the memory of a long run: `mapjax memory`."""

from mapjax.cli import memory, terminal

if __name__ == "__main__":
    terminal.run_main(memory.main)

"""Ask how much a layer knows: `mapjax probe`."""

from mapjax.cli import probe, terminal

if __name__ == "__main__":
    terminal.run_main(probe.main)

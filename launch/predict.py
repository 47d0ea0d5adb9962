"""Answer your own images with a trained run: `mapjax predict`."""

from mapjax.cli import predict, terminal

if __name__ == "__main__":
    terminal.run_main(predict.main)

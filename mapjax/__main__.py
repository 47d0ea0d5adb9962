"""`python -m mapjax NAME …` runs a program, as `mapjax NAME …` does."""

from mapjax.cli import main

if __name__ == "__main__":
    main.main()

"""`python -m mlxtune` is `mlxtune`."""

from mlxtune.cli import main

if __name__ == "__main__":
    main()

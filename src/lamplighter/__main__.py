"""`python -m lamplighter` is `lamplighter`."""

from lamplighter.cli.main import main

if __name__ == "__main__":
    main()

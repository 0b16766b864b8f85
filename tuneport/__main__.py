"""`python -m tuneport`: the command line."""

from tuneport.cli.main import main

if __name__ == "__main__":
    main()

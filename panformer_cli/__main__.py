"""Entry point of `python -m panformer_cli`, the same program as `panformer`."""

from panformer_cli.cli.main import main

if __name__ == "__main__":
    main()

"""`python -m panformer`, the same as the command `panformer`."""

from panformer_cli.cli.main import main

main()

"""`python -m voipagent`."""

from voipagent.cli import main

main()

"""The command ``quantizable``: one thin file per command."""

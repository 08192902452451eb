"""What can go wrong with the embedded server. Each message is one line that says what to do."""


class EmbeddedServerError(Exception):
    """The embedded server can't be used; the base of all errors of `picas.embedded`."""


class NodeMissingError(EmbeddedServerError):
    """There is no Node.js that can run the server, or no npm to install its packages."""


class InstallError(EmbeddedServerError):
    """The server's packages could not be installed, for example because there is no network."""


class StartError(EmbeddedServerError):
    """The server did not start."""


class PortInUseError(StartError):
    """Another program listens on the port that was asked for."""


class FolderInUseError(StartError):
    """Another server uses the data folder."""

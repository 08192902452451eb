"""The exceptions of the embedded server. Each message is one line that says what to do."""


class EmbeddedServerError(Exception):
    """The embedded server can't be used. The base class of all exceptions of `picas.embedded`."""


class NodeMissingError(EmbeddedServerError):
    """No Node.js can run the server, or no npm can install its packages."""


class InstallError(EmbeddedServerError):
    """The server's packages could not be installed, for example because there is no network."""


class StartError(EmbeddedServerError):
    """The server did not start."""


class PortInUseError(StartError):
    """Another program listens on the port."""


class FolderInUseError(StartError):
    """Another server uses the data folder."""

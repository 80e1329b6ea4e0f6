"""Everything that can go wrong between the name of a network and the loaded network."""


class NetworkError(Exception):
    """The root of this package's errors; the message says what to do about it."""


class UnknownNetwork(NetworkError):
    """No configuration entry, catalogue entry or library knows the name."""


class ConfigError(NetworkError):
    """A configuration entry contradicts itself, its file or the network it describes."""


class UnknownLayer(ConfigError):
    """A named layer is not a module of the network."""


class ArchitectureError(NetworkError):
    """The library cannot build the network, or it is not an image classifier for these inputs and classes."""


class WeightsError(NetworkError):
    """The parameters cannot be read or do not belong to the network."""


class HubUnreachable(WeightsError):
    """The parameters are in no file here and the library's hub cannot be reached."""


class NotOnHub(HubUnreachable):
    """The hub was reached, and has no such file."""

"""The root of all errors that a user can meet, each with a stable `code`.

    CrtError                internal
      ModelError            model_error            something is wrong with a network or its files
        UnknownBackbone     backbone_unknown       no backbone has this name
        WeightsUnavailable  weights_unavailable    published weights are neither here nor to be fetched
        BadWeights          weights_bad            a weights file is absent, unreadable or another network's
        BadCheckpoint       checkpoint_bad         a checkpoint folder is incomplete or inconsistent

A message names what was wrong and what would be right. Programming errors (a tensor of the wrong shape) stay
ValueError: no input of a user's reaches them.
"""


class CrtError(Exception):
    """Something that the person who sent the input or started the program can act on."""

    code = "internal"


class ModelError(CrtError):
    """Something is wrong with a network or the files that it is made from."""

    code = "model_error"


class UnknownBackbone(ModelError):  # noqa: N818 - named after what is wrong
    """No backbone has this name."""

    code = "backbone_unknown"


class WeightsUnavailable(ModelError):  # noqa: N818
    """Published weights are not on this machine and cannot be fetched."""

    code = "weights_unavailable"


class BadWeights(ModelError):  # noqa: N818
    """A weights file is absent, unreadable, or made for another network."""

    code = "weights_bad"


class BadCheckpoint(ModelError):  # noqa: N818
    """A checkpoint folder is incomplete or contradicts itself."""

    code = "checkpoint_bad"

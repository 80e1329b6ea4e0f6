"""The errors of an evaluation, with messages that the user can act on."""


class EvaluationError(Exception):
    """It cannot be run as asked."""


class DataError(EvaluationError):
    """The images or their labels cannot be used."""


class ResultsError(EvaluationError):
    """A folder of results cannot be used, or does not belong to this evaluation."""

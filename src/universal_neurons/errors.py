"""The one exception for mistakes a user can put right."""


class UserError(Exception):
    """Bad input or configuration; the message names the key or file and what would be right.

    Scripts print the message alone, without a traceback (see `universal_neurons.jobs.job`).
    """

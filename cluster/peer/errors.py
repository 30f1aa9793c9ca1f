"""Why a broker ends by itself."""


class BrokerFault(Exception):
    """This broker cannot go on; a restart goes through recovery."""


class BrokerRefused(Exception):
    """This broker may not start; an operator must put something right first."""

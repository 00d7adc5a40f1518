import signal

from trilith.cluster.state import Settings, State


def run(state: State, settings: Settings) -> None:
    signal.sigwait([signal.SIGTERM])

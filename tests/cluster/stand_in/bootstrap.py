from trilith.cluster.state import Settings, State


def bootstrap(state: State, settings: Settings) -> None:
    (state.root / "bootstrapped").touch()

"""How many workers a run has on a machine of its own: as many as it was given; nobody is asked for more machines."""

from typing import Any

from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy


class OneMachine(FixedScalingPolicy):
    """Ray's own, without the actor that collects wishes for an autoscaler."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Asks for no machines."""

    def _maybe_send_resource_request(self) -> None:
        pass

"""An online linear probe: a classifier trained beside any method, on features without gradient.

It shows at every epoch what a linear classifier makes of the encoder, and changes nothing about the encoder. Where the
method encodes the labelled images itself, the probe takes those features (as in da Costa et al., "solo-learn", JMLR
2022). Otherwise it encodes a weak view of them, as in the Keras example "Semi-supervised image classification using
contrastive pretraining with SimCLR" (Béres, 2021): the last view, and the probe's variables are built last, so the
other views and variables are what they are without it.
"""

from typing import Any

import keras
from keras import ops

from semisup_core.methods.base import Batch, Method, Progress, Tensor, VariableGroup, View, decay_groups
from semisup_core.methods.cross_entropy import cross_entropy, linear_classifier
from semisup_core.replica import Replica


class OnlineProbe:
    """A method and a linear classifier of its exported encoder's features of the labelled images."""

    def __init__(self, method: Method, num_classes: int) -> None:
        """Builds the classifier.

        Args:
            method: any that has no classifier of its own.
            num_classes: C.
        """
        self._method = method
        own = View("online_probe", "labelled", "weak", no_gradient=True)
        self.views = method.views if _encodes_labelled(method) else (*method.views, own)
        self.classifier = linear_classifier(method.export_encoder().output_shape[-1], num_classes, name="online_probe")
        self.modules = {**method.modules, "online_probe": self.classifier}

    def loss(self, batch: Batch, progress: Progress, replica: Replica) -> tuple[Tensor, dict[str, Tensor], Any]:
        """The method's loss plus the probe's, whose gradient stops at the features."""
        loss, metrics, carry = self._method.loss(batch, progress, replica)
        if _encodes_labelled(self._method):
            features = carry["labelled_features"]
        else:
            (images,) = batch.images["online_probe"]
            features = self._method.export_encoder()(images, training=False)
        logits = self.classifier(ops.stop_gradient(features))
        right = ops.equal(ops.argmax(logits, axis=-1), ops.cast(batch.labels, "int64"))
        probe_loss = ops.mean(cross_entropy(logits, batch.labels))
        metrics = {**metrics, "method_loss": loss, "probe_loss": probe_loss}
        return loss + probe_loss, metrics | {"probe_accuracy": ops.mean(ops.cast(right, probe_loss.dtype))}, carry

    def after_update(self, carry: Any, progress: Progress, replica: Replica) -> None:
        """The method's."""
        self._method.after_update(carry, progress, replica)

    def variable_groups(self) -> list[VariableGroup]:
        """The method's, and the probe's, which takes no part in clipping."""
        return [*self._method.variable_groups(), *decay_groups([self.classifier], clip=False)]

    def export_encoder(self) -> keras.Model:
        """The method's."""
        return self._method.export_encoder()


def _encodes_labelled(method: Method) -> bool:
    return any(view.pool == "labelled" for view in method.views)

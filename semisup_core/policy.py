"""View policies: how strongly a view is augmented, as plain values (the drawing is in `augmenters.py`)."""

import dataclasses
from dataclasses import dataclass

from semisup_core.settings import Settings, setting

_SMALLEST_AREA = 0.02  # below this a crop of a 32-pixel image is under 5 pixels wide: nothing left to learn from


@dataclass(frozen=True)
class Policy(Settings):
    """How one view is drawn. The default changes nothing.

    Geometry, one resample: `min_area` (crop area as a fraction of the image, drawn between this and 1), `ratio`
    (crop width / height drawn log-uniformly in [1 / ratio, ratio]), `flip` (probability), `rotation` (degrees
    either way), `shear` (degrees either way), `shift` (fraction of the side either way), `fill` (what lies
    outside the image). Colour, one affine map of RGB: `brightness`, `contrast`, `saturation` (factor drawn in
    [1 - x, 1 + x]), `hue` (fraction of a turn either way), `jitter` (a random 3x3 matrix with entries in
    [-x, x] added to the map), `colour` (probability that the colour map is applied at all), `grayscale`
    (probability). Extras, in this order: `blur`, `solarize` (probabilities), `cutout` (side of the erased
    square as a fraction).
    """

    min_area: float = setting(1.0, at_least=_SMALLEST_AREA, at_most=1.0)
    ratio: float = setting(1.0, at_least=1.0, at_most=4.0)
    flip: float = setting(0.0, at_least=0.0, at_most=1.0)
    rotation: float = setting(0.0, at_least=0.0, at_most=180.0)
    shear: float = setting(0.0, at_least=0.0, at_most=60.0)
    shift: float = setting(0.0, at_least=0.0, at_most=1.0)
    fill: str = setting("reflect", one_of=("reflect", "nearest", "constant"))
    brightness: float = setting(0.0, at_least=0.0, at_most=1.0)
    contrast: float = setting(0.0, at_least=0.0, at_most=1.0)
    saturation: float = setting(0.0, at_least=0.0, at_most=1.0)
    hue: float = setting(0.0, at_least=0.0, at_most=0.5)
    jitter: float = setting(0.0, at_least=0.0, at_most=1.0)
    colour: float = setting(1.0, at_least=0.0, at_most=1.0)
    grayscale: float = setting(0.0, at_least=0.0, at_most=1.0)
    blur: float = setting(0.0, at_least=0.0, at_most=1.0)
    solarize: float = setting(0.0, at_least=0.0, at_most=1.0)
    cutout: float = setting(0.0, at_least=0.0, at_most=0.9)

    def scaled(self, strength: float) -> "Policy":
        """This policy with every distance from the identity multiplied by `strength`, capped at its range.

        Probabilities of flip and of the colour map stay: they say whether, not how much.
        """
        if strength == 1.0:
            return self
        distances = (
            "rotation",
            "shear",
            "shift",
            "brightness",
            "contrast",
            "saturation",
            "hue",
            "jitter",
            "grayscale",
            "blur",
            "solarize",
            "cutout",
        )
        limits = {field.name: field.metadata.get("at_most") for field in dataclasses.fields(self)}
        scaled = {name: min(getattr(self, name) * strength, limits[name]) for name in distances}
        area = min(max(1.0 - (1.0 - self.min_area) * strength, _SMALLEST_AREA), 1.0)
        return dataclasses.replace(self, min_area=area, ratio=min(self.ratio**strength, 4.0), **scaled)


NONE = Policy()

import numpy as np

from semisup_core.data.digits_source import digits
from semisup_core.data.manifest import Origin


class TestDigits:
    def test_rows(self):
        source = digits().source()
        assert len(source) == 1797 and source.image_shape == (32, 32, 3)
        assert source.class_names == tuple("0123456789")
        image = source.load(source.items()[3])
        assert image.shape == (32, 32, 3) and image.dtype == np.uint8
        assert (image == image[..., :1]).all() and image.max() > 240 and image.min() == 0

    def test_original_size_keeps_the_original_values(self):
        from sklearn.datasets import load_digits

        source = digits(8).source()
        image = source.load(source.items()[5])
        np.testing.assert_array_equal(image[..., 0], np.rint(load_digits().images[5] * 255 / 16))

    def test_test_rows_are_fixed_and_stratified(self):
        source = digits(8).source()
        test = source.origins == Origin.TEST
        assert test.sum() == 400 and (source.origins[~test] == Origin.TRAIN).all()
        share = np.bincount(source.labels[test]) / np.bincount(source.labels)
        assert abs(share - 400 / 1797).max() < 1 / 170
        # Results of different versions are comparable only while these rows stay the same.
        assert np.flatnonzero(test)[:8].tolist() == [11, 13, 19, 28, 31, 36, 38, 39]
        assert np.flatnonzero(test).sum() == 357251

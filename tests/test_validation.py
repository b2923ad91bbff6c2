"""What is measured after an epoch, and how the speed of training is."""

import numpy as np
import pytest

from trainer import input_clock, validation


def test_validation_measures_what_it_says():
    labels = np.eye(3)[[0, 0, 1, 2]]
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]))
    result = validation.measure(labels, logits, multi_label=False)
    assert result.accuracy == 0.75
    assert result.loss == pytest.approx(-np.log([0.7, 0.2, 0.8, 0.6]).mean())
    assert result.confusion.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert result.macro_f1 == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    several = validation.measure(np.array([[1.0, 1.0]]), np.array([[2.0, -2.0]]), multi_label=True)
    assert several.accuracy == 0.5
    assert several.loss == pytest.approx((np.log1p(np.exp(-2)) + np.log1p(np.exp(2))) / 2)


def test_the_clock_counts_waiting_after_the_first_step(monkeypatch):
    now = iter([0.0, 5.0, 6.0, 7.0, 15.0])  # first batch; end of first step; second batch from, to; reading
    monkeypatch.setattr(input_clock.time, "perf_counter", lambda: next(now))
    clock, batches = input_clock.InputClock(), iter([{}, {}])
    clock.next_batch(batches)
    clock.count(4)
    clock.next_batch(batches)
    clock.count(4)
    assert clock.read() == {"images_per_second": 0.4, "input_wait_share": 0.1}


def test_a_confusion_matrix_is_drawn(tmp_path):
    validation.draw_confusion(np.array([[3, 1], [0, 0]]), ["a", "b"], path=str(tmp_path / "matrix.png"))
    assert (tmp_path / "matrix.png").read_bytes().startswith(b"\x89PNG")

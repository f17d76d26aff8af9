"""Accuracy on the training examples."""

from mistakes import config, run


def test_only_labelled_examples_count_and_no_more_than_asked(tmp_path):
    made = config(measure=("fit",), measure_kwargs__fit__examples=20, data__labels=40)
    results = run(tmp_path, made)
    assert results["models"]["student"]["measures"]["fit"]["examples"] == 20
    assert 0 <= results["models"]["teacher"]["measures"]["fit"]["train_accuracy"] <= 1

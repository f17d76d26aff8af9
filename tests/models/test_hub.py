"""Where models are looked for."""

import pytest

from kd_jax.models.hub import find_model


def test_where_models_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    cache = tmp_path / "models--some--model"
    with pytest.raises(ValueError, match="hf download some/model"):
        find_model("some/model")
    (cache / "snapshots" / "abc").mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    assert find_model("some/model") == find_model("some/model", "abc") == cache / "snapshots" / "abc"
    assert find_model(str(tmp_path)) == tmp_path
    assert find_model("package:kd_jax/models").name == "models"
    with pytest.raises(ValueError, match="pip install no-such-thing"):
        find_model("package:no_such_thing/model")
    with pytest.raises(ValueError, match="no folder .*weights"):
        find_model("package:kd_jax/weights")

"""The evaluation protocols as configs: which setup is measured how, and that each of its metrics can be
built.
"""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from midre_exp.plan.config import CONF_DIR, build


@pytest.mark.parametrize("setup", ["S05", "S27", "S33", "S34", "S37"])
def test_every_metric_of_a_setup_can_be_built_and_faces_are_measured_where_there_are_some(setup):
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("config", overrides=[f"setup={setup}", "scale=paper"])
    node = OmegaConf.to_container(config.metrics, resolve=True)
    measure = {name: build(metric) for name, metric in node["measure"].items() if metric is not None}
    (step,) = (build(step) for step in node["image_to_evaluator"])
    assert step.size == config.evaluator.resolution
    high = setup != "S05"
    assert ("delta_eval" in measure) is high and ("knn" in measure) is not high
    assert ("delta_face" in measure) is (high and setup != "S33")  # S33 are dogs
    if high:
        assert (measure["fid"].name, measure["fid_ppa"].name) == ("fid", "fid_ppa")
        assert measure["fid_ppa"].images == "all"
        assert measure["prdc"].official_range == measure["fid_ppa"].official_range

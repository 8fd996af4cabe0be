"""Every key has a type and a range: what can be told of a config is told before anything is made; and no
config of ours is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from midre_exp.errors import ConfigError
from midre_exp.plan.arguments import fault, options_of
from midre_exp.plan.compose import Composer, packaged_composer, packaged_configs
from midre_exp.plan.config import config_files
from midre_exp.plan.explain import settings_of_job
from midre_exp.plan.ranges import BelowOne, Count, LearningRate, Positive, Probability, Range, Seed
from midre_exp.plan.validate import check_settings

#: An override behind what it needs, and what the sentence says.
REFUSED = """
attack.lr=null | attack.lr=null cannot be used; give a number above 0 and at most 10000
attack.lr=-1 | attack.lr=-1 cannot be used; give a number above 0
attack.lr=1e30 | attack.lr=1e+30 cannot be used
attack.lr=fast | attack.lr=fast cannot be used
attack.lr="0.1" | attack.lr="0.1" cannot be used
attack.lr=nan | attack.lr=nan cannot be used
attack.steps=1.5 | attack.steps=1.5 cannot be used; give a whole number from 1
attack.steps=true | attack.steps=true cannot be used; give a whole number from 1
attack.restarts=true | attack.restarts=true cannot be used
attack.momentum=2 | attack.momentum=2 cannot be used; give a number from 0 to below 1
attack.identity_weight=-100 | attack.identity_weight=-100 cannot be used; give a number from 0
attack.clip=-1 | attack.clip=-1 cannot be used; give a number above 0, or null
attack.image_to_target=resize | attack.image_to_target=resize cannot be used; give a list, each entry a node
attack.image_to_target=[{_target_:midre_exp.data.transforms.Resize,size:0}] | attack.image_to_target.0.size=0
attack.identity_loss._target_=torch.nn.CrossEntropyLoss | torch.nn.CrossEntropyLoss is not allowed
attack.identity_loss._target_=attacks.PSpaceBox | its place takes
attack.identity_loss=3 | attack.identity_loss=3 cannot be used; give a node whose _target_ makes
+attack.identiy_loss=3 | attack.identiy_loss is read by nothing; did you mean attack.identity_loss?
attack.prior.batch_size=0 | attack.prior.batch_size=0 cannot be used; give a whole number from 1
attack.prior.betas=[0.5] | attack.prior.betas=[0.5] cannot be used; give a list of 2 values, each a number
attack.prior.betas=[0.5,1] | attack.prior.betas=[0.5, 1] cannot be used
attack.prior.seed=-1 | attack.prior.seed=-1 cannot be used
+attack.prior.num_classes=3 | attack.prior.num_classes is read by nothing
attack._target_=attacks.PPA | is read by nothing; PPA takes
metrics.measure.top1.k=1.5 | metrics.measure.top1.k=1.5 cannot be used; give a whole number from 1
+metrics.measure.fid.images=some | metrics.measure.fid.images=some cannot be used; give successful or all
metrics.measure=null | metrics.measure=null cannot be used
+metrics.measure.x=3 | metrics.measure.x=3 cannot be used; give a mapping with a _target_, or null
metrics.image_to_evaluator=null | metrics.image_to_evaluator=null cannot be used
metrics.image_to_evaluator=[3] | metrics.image_to_evaluator=[3] cannot be used
numerics.precision=fp16 | numerics.precision=fp16 cannot be used; give float32, tf32 or bf16
numerics.compile=maybe | numerics.compile=maybe cannot be used; give true or false
+numerics.compiled=true | numerics.compiled is read by nothing; did you mean numerics.compile?
target.recipe=null | target.recipe=null cannot be used; give a mapping of epochs, batch_size
target.recipe.augment=null | target.recipe.augment=null cannot be used; give a list
evaluator.recipe.augment=null | evaluator.recipe.augment=null cannot be used
target.recipe.augment=[{_target_:midre_exp.data.transforms.HorizontalFlip,p:2}] | augment.0.p=2 cannot be used
target.recipe.drop_last=maybe | target.recipe.drop_last=maybe cannot be used; give true or false
target.recipe.epochs=2.0 | target.recipe.epochs=2.0 cannot be used
target.recipe.optimizer.lr=0 | target.recipe.optimizer.lr=0 cannot be used; give a number above 0
target.recipe.optimizer.lr=1e30 | target.recipe.optimizer.lr=1e+30 cannot be used
target.recipe.optimizer.weight_decay=-1 | target.recipe.optimizer.weight_decay=-1 cannot be used
target.recipe.optimizer.betas=[1,2] | target.recipe.optimizer.betas=[1, 2] cannot be used
target.recipe.optimizer._target_=torch.optim.Nothing | cannot import _target_ torch.optim.Nothing
+target.recipe.optimizer.momentm=0 | target.recipe.optimizer.momentm is read by nothing
target.recipe.scheduler=linear | target.recipe.scheduler=linear cannot be used
target.recipe.select=luckiest | target.recipe.select=luckiest cannot be used; give last or best_test
+target.recipe.epoch=1 | target.recipe.epoch is read by nothing; did you mean target.recipe.epochs?
+target.modl=1 | target.modl is read by nothing; did you mean target.model?
target.model.width=1e-9 | target.model.width=1e-09 cannot be used; give a number from 0.01 to 100
target.model.depth=18.0 | target.model.depth=18.0 cannot be used
target.model.stem=big | target.model.stem=big cannot be used; give imagenet, small, half, small_pooled
target.model.std=0 | target.model.std=0 cannot be used
evaluator.seed=null | evaluator.seed=null cannot be used; give a whole number from 0
evaluator.seed=9223372036854775808 | evaluator.seed=9223372036854775808 cannot be used
seed=18446744073709551616 | seed=18446744073709551616 cannot be used; give a whole number from 0 to 92233720
seed=-1 | seed=-1 cannot be used
seed="0" | seed="0" cannot be used; give a whole number
seed=true | seed=true cannot be used
resolution=wide | resolution=wide cannot be used; give a whole number from 1
data.seed=x | data.private.seed=x cannot be used
data.private=7 | data.private=7 cannot be used; give a mapping with a _target_
data.private.source=mars | data.private.source=mars cannot be used; give same or other
runtime.threads=0 | runtime.threads=0 cannot be used; give a whole number from 1, or null
runtime.quiet=perhaps | runtime.quiet=perhaps cannot be used
runtime.progress=1 | runtime.progress=1 cannot be used; give auto, true or false
runtime.trusted_packages=os | runtime.trusted_packages=os cannot be used; give a list
+runtime.thread=4 | runtime.thread is read by nothing; did you mean runtime.threads?
+paths.stor=x | paths.stor is read by nothing; did you mean paths.store?
paths.store=null | paths.store=null cannot be used
plan.wait=2 | plan.wait=2 cannot be used
tracking.mode=loud | tracking.mode=loud cannot be used
+tracking.key=abc | tracking.key is read by nothing
setup.id=3 | setup.id=3 cannot be used; give a text
+data.x=3 | data.x is read by nothing
+data.identites=3 | data.identites is read by nothing; did you mean data.identities?
+resolutoin=3 | resolutoin is read by nothing; did you mean resolution?
defense=midre defense.midre.fill=[5,5,5] | defense.midre.fill=[5, 5, 5] cannot be used; give a list of 3
defense=midre defense.midre.fill=[1,2] | defense.midre.fill=[1, 2] cannot be used
defense=midre defense.midre.a_h=1 | defense.midre.a_h=1 cannot be used; give a number from 0 to below 1
defense=midre +defense.midre.a_hi=0.1 | defense.midre.a_hi is read by nothing; did you mean
defense=nls defense.nls.alpha=-1e9 | defense.nls.alpha=-1000000000.0 cannot be used; give a number from -1000
defense=bido defense.bido.lambda_x=-1 | defense.bido.lambda_x=-1 cannot be used
defense=tldmi defense.tldmi.lr=0 | defense.tldmi.lr=0 cannot be used
""".strip().splitlines()


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with packaged_configs():
        yield packaged_composer()


@pytest.mark.parametrize("line", REFUSED)
def test_a_value_that_cannot_be_used_is_one_sentence(composer: Composer, line: str) -> None:
    job, _, told = line.partition(" | ")
    with pytest.raises(ConfigError) as caught:
        check_settings(settings_of_job(composer, job.split(" ")))
    sentence = str(caught.value)
    assert any(part in sentence for part in told.split("|")), sentence
    assert sentence.isprintable() and len(sentence) < 600


@pytest.mark.parametrize(
    "line",
    [
        "attack.lr=1",
        "attack.clip=null",
        "attack.identity_weight=0",
        "+attack.picture=null",
        "metrics.measure.top1=null",
        "target.recipe.scheduler=null",
        "target.recipe.optimizer._target_=torch.optim.AdamW +target.recipe.optimizer.amsgrad=true",
        "+target.recipe.optimizer.eps=1e-6",
        "+setup.note_of_mine=[1,2]",
        "+setup.mine=3 data.seed=${setup.mine}",
        "+mine=3 data.seed=${mine}",
        "+data.mine=3 data.private.seed=${data.mine}",
        "seed=9223372036854775807",
        "runtime.threads=null",
        "defense=[midre,nls] defense.midre.fill=[0,0,0]",
    ],
)
def test_what_makes_sense_is_accepted(composer: Composer, line: str) -> None:
    check_settings(settings_of_job(composer, line.split(" ")))


def every_config() -> list[str]:
    """Each setup, and each choice of each group, at each scale."""
    groups = ("setup", "attack", "target", "evaluator", "metrics", "data", "defense", "tracking")
    choices = [f"{group}={name}" for group in groups for name in config_files(group)]
    return [f"scale={scale} {choice}" for scale in config_files("scale") for choice in choices]


@pytest.mark.slow
def test_no_config_of_ours_is_refused(composer: Composer) -> None:
    for job in every_config():
        own = ["data.root=/somewhere"] if job.endswith("data=folder") else []
        check_settings(composer.settings([*job.split(" "), *own]))


@pytest.mark.parametrize("setup", ["S01", "S07b", "S13", "S19", "S25", "S26", "S27", "S34", "S36", "demo"])
def test_setups_of_every_attack_pass_at_full_size(composer: Composer, setup: str) -> None:
    if setup in config_files("setup"):
        check_settings(composer.settings([f"setup={setup}", "scale=paper"]))


def test_notes_of_ones_own_stay_possible_where_nothing_else_is_meant(composer: Composer) -> None:
    with pytest.raises(ConfigError, match="notes and values of your own under setup"):
        composer.settings(["+mine=3"])


# -- types --


@dataclass(kw_only=True)
class Base:
    rate: LearningRate
    share: Probability = 0.5


@dataclass(kw_only=True)
class Plugin(Base):
    """As users write them."""

    steps: Count
    names: tuple[str, ...] = ()
    mode: Literal["a", "b"] | None = None
    part: Base | None = None
    anything: Any = None
    sloppy: int = None  # type: ignore[assignment]
    path: Path | None = None
    odd: Annotated[int, Range(1, 3, open_low=True)] = 2


def made(**values: Any) -> str:
    node = {"_target_": f"{__name__}.Plugin", "rate": 0.1, "steps": 1, **values}
    found = fault(node, Plugin, "key")
    return "" if found is None else str(found)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pytest loads this file without a name under which others could."""
    import sys

    from midre_exp.plan import arguments

    here = sys.modules[__name__]
    found = arguments._found
    known = {f"{__name__}.{kind.__name__}": kind for kind in (Base, Plugin, Plain)}
    monkeypatch.setattr(arguments, "_found", lambda name: known.get(name) or found(name))
    assert here is not None


class Plain:
    """Without annotations or with some that cannot be resolved: nothing is known, and nothing refused."""

    def __init__(  # type: ignore[no-untyped-def]
        self,
        free,
        *,
        odd: NoSuchType = 3,  # type: ignore[name-defined]  # noqa: F821
        **rest: float,
    ) -> None:
        self.free, self.odd, self.rest = free, odd, rest


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, ""),
        ({"rate": 1}, ""),
        ({"rate": 0}, "key.rate=0 cannot be used; give a number above 0 and at most 10000"),
        ({"share": 1.5}, "key.share=1.5 cannot be used; give a number from 0 to 1"),
        ({"steps": True}, "key.steps=true cannot be used; give a whole number from 1"),
        ({"names": "one"}, "key.names=one cannot be used; give a list, each entry a text"),
        ({"names": ["one", 2]}, "key.names=[one, 2] cannot be used"),
        ({"mode": "c"}, "key.mode=c cannot be used; give a or b, or null"),
        ({"mode": None, "path": "x", "sloppy": None, "anything": [{"a": 1}]}, ""),
        ({"sloppy": "x"}, "key.sloppy=x cannot be used; give a whole number"),
        ({"path": 3}, "key.path=3 cannot be used; give a path, or null"),
        ({"odd": 1}, "key.odd=1 cannot be used; give a whole number above 1 and at most 3"),
        ({"step": 1}, "key.step is read by nothing; did you mean key.steps? Plugin takes"),
        ({"part": {"_target_": f"{__name__}.Base", "rate": 1}}, ""),
        ({"part": {"_target_": f"{__name__}.Base", "rate": -1}}, "key.part.rate=-1 cannot be used"),
        (
            {"part": {"_target_": f"{__name__}.Base"}},
            "key.part.rate is missing; give it as ++key.part.rate=VALUE",
        ),
        (
            {"steps": {"_target_": f"{__name__}.Plain", "free": 1}},
            "cannot be used; give a whole number from 1",
        ),
        ({"anything": {"_target_": f"{__name__}.Plain", "free": "x", "odd": object, "more": 1.5}}, ""),
        (
            {"anything": [{"_target_": f"{__name__}.Plain", "free": 0, "more": "x"}]},
            "anything.0.more=x cannot",
        ),
    ],
)
def test_a_class_of_ones_own_is_held_to_its_annotations(values: dict[str, Any], told: str) -> None:
    sentence = made(**values)
    assert told in sentence if told else sentence == ""


def test_options_of_a_dataclass_come_from_where_each_was_written():
    options = options_of(Plugin).named
    assert options["rate"].required and options["rate"].hint == LearningRate
    assert not options["share"].required and options["steps"].hint == Count


@pytest.mark.parametrize(
    ("alias", "inside", "outside"),
    [
        (Seed, [0, 2**63 - 1], [-1, 2**63, True, 1.0]),
        (BelowOne, [0, 0.999], [1, -0.1, "0"]),
        (Positive, [1e-300, 1e300, 1], [0, -1, float("inf"), float("nan"), None]),
    ],
)
def test_ranges(alias: Any, inside: list[Any], outside: list[Any]) -> None:
    assert [value for value in inside if fault(value, alias, "k")] == []
    assert [value for value in outside if not fault(value, alias, "k")] == []

"""The tuning of GANs: their own steps, gone on with on public images and reconstructions."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from midre_exp.data.base import ImageSet, to_float
from midre_exp.data.transforms.view import NUMBERS, RandomView
from midre_exp.errors import ConfigError
from midre_exp.priors.gan import kedmi_gan
from midre_exp.priors.kedmi import KedMIPrior
from midre_exp.priors.style_prior import StylePrior
from midre_exp.seeding import ItemRNG, generator, integers, normal
from midre_exp.threat import Threat, Victim
from midre_exp.tuning.base import Best
from midre_exp.tuning.gan import GanTuning, _Images
from tests.contracts.test_every_attack import CLASSES, Colours, small_kedmi, small_plgmi
from tests.tuning.test_style import Killed
from tests.tuning.test_style import material as style_material

VIEW = RandomView(
    scale=(0.8, 1.0), brightness=0.2, contrast=0.2, saturation=True, jitter_p=1, flip_p=0.5, degrees=5,
    rotation_p=1,
)  # fmt: skip
PUBLIC = 14


def tuning(**options) -> GanTuning:
    chosen = {
        "base": "x",
        "rounds": 2,
        "kept": 0.5,
        "views": 3,
        "view": VIEW,
        "share": 0.5,
        "steps": 3,
        "epochs": None,
        "batch_size": 4,
        "lr": 1e-2,
    }
    return GanTuning(**{**chosen, **options})


def prior_of(kind: str):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = small_kedmi() if kind == "kedmi" else small_plgmi()
    if kind == "plgmi":
        made.selection.copy_(torch.arange(CLASSES * made.per_class).view(CLASSES, -1))
    else:
        made.critic_steps = 1
    made.freeze()
    return made


def public(size: int) -> ImageSet:
    draws = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (PUBLIC, 3, size, size), generator=draws, dtype=torch.uint8)
    return ImageSet(images, torch.zeros(PUBLIC, dtype=torch.long), ("all",))


def material(prior, work, runtime=None):
    return replace(style_material(prior, work, runtime), public=public(prior.image_size))


def best(prior, labels=(1, 3), pictures: int = 3) -> Best:
    labels = torch.tensor(labels)
    latents = ItemRNG(2, "z", items=labels).normal("z", pictures, prior.latent_dim).flatten(0, 1)
    with torch.no_grad():
        drawn = prior.generate(latents, labels.repeat_interleave(pictures))
    return Best(drawn.unflatten(0, (len(labels), -1)), labels, ItemRNG(0, "tuning", items=labels), None)


kinds = pytest.mark.parametrize("kind", ["kedmi", "plgmi"])


@kinds
@pytest.mark.parametrize("options", [{"steps": 0}, {"lr": 0.0}], ids=str)
def test_no_step_and_no_rate_leave_every_weight_equal(kind, options, tmp_path):
    prior, made = prior_of(kind), tuning(**options)
    for state in made.tune(material(prior, tmp_path), best(prior)):
        for name, value in prior.named_parameters():
            norms = name.replace("_orig", "")  # of which the vectors are refreshed at every pass
            assert torch.equal(state[name], value), norms
        if options.get("steps") == 0:
            assert all(torch.equal(value, prior.state_dict()[name]) for name, value in state.items())


@kinds
@pytest.mark.parametrize("options", [{}, {"share": None}, {"steps": None, "epochs": 2}], ids=str)
def test_the_target_is_asked_as_often_as_is_said_and_identities_become_different(kind, options, tmp_path):
    prior, made = prior_of(kind), tuning(**options)
    given = material(prior, tmp_path)
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    shared = made.ask_before(given)
    assert given.victim.queries == shared == (PUBLIC if kind == "kedmi" else 0)
    states = made.tune(given, best(prior))
    assert given.victim.queries - shared == 2 * made.asked(prior, 3)
    name = next(name for name in states[0] if name.startswith("generator.") and "weight" in name)
    assert not torch.equal(states[0][name], states[1][name])
    assert not torch.equal(states[0][name], before[name])
    assert all(torch.equal(value, before[name]) for name, value in prior.state_dict().items())
    assert made.ask_before(given) == shared  # again, as after a kill, without asking
    assert given.victim.queries == 2 * shared + 2 * made.asked(prior, 3)


def test_the_first_step_is_the_discriminators_own_on_half_public_images(tmp_path):
    prior, made = prior_of("kedmi"), tuning(steps=1)
    prior.critic_steps, prior.ema = 5, 0.0  # so that the generator does not move
    given, found = material(prior, tmp_path), best(prior, (3,))
    made.ask_before(given)
    (state,) = made.tune(given, found)

    twin = deepcopy(prior)
    assert isinstance(twin, KedMIPrior)
    seed = int(found.rng.keys[0])
    gan = kedmi_gan.GanTraining(
        twin.generator, twin.discriminator, lr=0.01, betas=twin.betas, ema=0, device=torch.device("cpu")
    )
    everything = torch.cat((to_float(given.public.images), found.pictures[0]))
    with torch.no_grad():
        answers = given.victim(everything).logits.softmax(1)

    def rows(purpose):
        order = torch.randperm(PUBLIC, generator=generator(seed, "prior", purpose, 0))
        again = integers(generator(seed, "tuning", purpose, 0), PUBLIC, PUBLIC + 3, 2)
        return torch.cat((order[:2], again))

    labelled, unlabelled = rows("labelled"), rows("unlabelled")
    latents = normal(generator(seed, "tuning", "step", 0), 2, 4, twin.latent_dim)
    real = everything[torch.cat((labelled, unlabelled))]
    kedmi_gan.discriminator_step(gan, real, answers[labelled], latents[0], group=twin.group)
    for name, value in twin.discriminator.state_dict().items():
        torch.testing.assert_close(state[f"discriminator.{name}"], value, rtol=0, atol=1e-6)


def test_reconstructions_are_shown_as_they_were_drawn_and_noise_is_for_eight_bits():
    images = _Images(torch.full((2, 3, 4, 4), 51, dtype=torch.uint8), torch.full((2, 3, 4, 4), -0.3))
    shown = images.rows(torch.tensor([0, 2, 3, 1]), torch.full((4, 3, 4, 4), 0.01))
    torch.testing.assert_close(shown[:, 0, 0, 0], torch.tensor([0.21, -0.3, -0.3, 0.21]))


@kinds
def test_a_killed_tuning_goes_on_to_the_same_bytes(kind, tmp_path):
    prior, made = prior_of(kind), tuning(steps=4)
    found = best(prior, (3,))
    unbroken = made.tune(material(prior, tmp_path / "unbroken"), found)[0]
    with pytest.raises(KeyboardInterrupt):
        made.tune(
            material(prior, tmp_path / "killed", Killed(quiet=True, checkpoint_seconds=0, fatal=2)), found
        )
    watched = Killed(quiet=True, checkpoint_seconds=0)
    continued = made.tune(material(prior, tmp_path / "killed", watched), found)[0]
    assert len(watched.steps) < 4
    assert all(torch.equal(continued[name], value) for name, value in unbroken.items())


def test_the_score_is_the_mean_over_views_that_are_the_same_for_all():
    victim = Victim.of(Colours(), CLASSES, Threat.WHITE_BOX)
    images, labels = torch.rand(1, 3, 16, 16).expand(2, -1, -1, -1), torch.tensor([2, 2])
    shared = ItemRNG(0, "x", items=torch.zeros(1, dtype=torch.long))
    with torch.no_grad():
        found = tuning().scores(victim, images, labels, shared)
        expected = [
            victim(VIEW(images[:1], shared.uniform("scoring", NUMBERS, step=n))).logits.softmax(1)[0, 2]
            for n in range(3)
        ]
    assert found[0] == found[1]
    torch.testing.assert_close(found[0], torch.stack(expected).mean())


def test_how_many_reconstructions_count_and_what_is_refused():
    assert [tuning().taken(n) for n in (1, 2, 5, 1000)] == [1, 1, 2, 500]
    with pytest.raises(ConfigError, match=r"attack\.tuning needs steps or epochs"):
        tuning(steps=None)
    assert not GanTuning.can_tune(StylePrior)
    assert GanTuning.can_tune(KedMIPrior)
